package storage_test

import (
	"testing"

	"github.com/neuronmill/neuronmill/internal/realtest"
	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/storage/storagetest"
)

func TestMemoryIsAStore(t *testing.T) {
	realtest.Long(t)
	storagetest.Run(t, func(*testing.T) storage.Store { return storage.NewMemory() })
}
