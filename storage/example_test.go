package storage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/neuronmill/neuronmill/storage"
	"github.com/neuronmill/neuronmill/storage/fsstore"
)

// Create is the write of documents that exist once: the second one fails and changes
// nothing.
func ExampleStore() {
	ctx := context.Background()
	var store storage.Store = storage.NewMemory()
	first := store.Create(ctx, "default/notes/1.txt", strings.NewReader("first"), "text/plain")
	second := store.Create(ctx, "default/notes/1.txt", strings.NewReader("second"), "text/plain")
	fmt.Println(first, errors.Is(second, storage.ErrExists))

	body, err := store.Get(ctx, "default/notes/1.txt")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer body.Close()
	text, err := io.ReadAll(body)
	fmt.Println(string(text), err)
	// Output:
	// <nil> true
	// first <nil>
}

// DeleteMany uses the store's own request for many objects where it has one.
func ExampleDeleteMany() {
	ctx := context.Background()
	store := storage.NewMemory()
	for _, key := range []string{"default/notes/1.txt", "default/notes/2.txt", "default/notes/3.txt"} {
		if err := store.Put(ctx, key, strings.NewReader("text"), "text/plain"); err != nil {
			fmt.Println(err)
		}
	}
	err := storage.DeleteMany(ctx, store, []string{"default/notes/1.txt", "default/notes/3.txt"})
	fmt.Println(err)
	for object, err := range store.List(ctx, "default/notes/", "") {
		fmt.Println(object.Key, object.Size, err)
	}
	// Output:
	// <nil>
	// default/notes/2.txt 4 <nil>
}

// Preflight checks that a bucket refuses a second create of one key. A worker does so
// before its first call.
func ExamplePreflight() {
	folder, err := os.MkdirTemp("", "bucket")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(folder)
	store, err := fsstore.Open(folder)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(storage.Preflight(context.Background(), store))
	// Output: <nil>
}
