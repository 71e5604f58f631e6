package workersai

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestVectorsStayAsTheAPIWroteThem(t *testing.T) {
	out, why := vectors(json.RawMessage(" [ [0.12345678901234567, -1e-7] ,\n[1 ,2.50]] "), 0, 2)
	require.Empty(t, why)
	require.Equal(t, 2, out.Dimensions)
	require.Equal(t, []json.RawMessage{json.RawMessage("[0.12345678901234567, -1e-7]"), json.RawMessage("[1 ,2.50]")}, out.Vectors)
}

func TestVectorsThatAreNotNumbersAreRefused(t *testing.T) {
	for raw, want := range map[string]string{
		"null":             "not lists of numbers",
		`"[[1]]"`:          "not lists of numbers",
		"{}":               "not lists of numbers",
		"[1,2]":            "not lists of numbers",
		"[[1,2],3]":        "not lists of numbers",
		"[[1,2],null]":     "not lists of numbers",
		`["]",[1]]`:        "not lists of numbers",
		"[[[1,2]],[1,2]]":  "not lists of numbers",
		`[["1",2],[1,2]]`:  "not lists of numbers",
		"[[true,2],[1,2]]": "not lists of numbers",
		"[[{},2],[1,2]]":   "not lists of numbers",
		"[[1e39,2],[1,2]]": "not lists of numbers",
		"[[1,null],[1,2]]": "holds null",
		"[]":               "not as many as the texts",
		"[[1,2]]":          "not as many as the texts",
		"[[1],[1],[1]]":    "not as many as the texts",
		"[[],[]]":          "another size",
		"[[1,2],[1]]":      "another size",
	} {
		out, why := vectors(json.RawMessage(raw), 0, 2)
		require.Nil(t, out, raw)
		require.Contains(t, why, want, raw)
	}
}

func TestAVectorHasTheSizeOfItsModel(t *testing.T) {
	_, why := vectors(json.RawMessage("[[1,2]]"), 3, 1)
	require.Contains(t, why, "another size")
}
