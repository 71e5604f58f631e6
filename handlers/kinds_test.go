package handlers

import (
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/catalogue"
	"github.com/neuronmill/neuronmill/tasks"
	"github.com/stretchr/testify/require"
)

func TestEachKindHasOneHandler(t *testing.T) {
	var kinds, specs []tasks.Kind
	for _, h := range All(nil) {
		require.NotNil(t, h.Run, h.Kind)
		kinds = append(kinds, h.Kind)
	}
	for _, s := range tasks.Specs {
		specs = append(specs, s.Kind)
	}
	require.ElementsMatch(t, specs, kinds)
}

func TestTextsArePartedByCountAndByTokens(t *testing.T) {
	long := strings.Repeat("x", 3000) // about 1,000 tokens
	m := catalogue.Model{Texts: 3, CallTokens: 2100}
	require.Equal(t, [][]string{{"a", "b", "c"}, {"d"}}, parts([]string{"a", "b", "c", "d"}, m))
	require.Equal(t, [][]string{{long, long}, {long}}, parts([]string{long, long, long}, m))
	require.Equal(t, [][]string{{"a"}, {"b"}}, parts([]string{"a", "b"}, catalogue.Model{}))
}
