package objects_test

import (
	"strings"
	"testing"

	"github.com/neuronmill/neuronmill/internal/objects"
	"github.com/stretchr/testify/require"
)

func TestTheIDsOfASharedRecordFollowFromItsKeyAndTheKeyFromAnyID(t *testing.T) {
	record, err := objects.NewSharedRecord("t_0198c2f3a1b27ffe8123456789abcdef", 200)
	require.NoError(t, err)
	key := record.Key("acme")
	require.Equal(t, "acme/pending/many/t_0198c2f3a1b28ffe6789abcdef0c8000.json", key)
	parsed, ok := objects.ParseSharedKey("acme", key)
	require.True(t, ok)
	require.Equal(t, record, parsed)
	ids := parsed.IDs()
	require.Len(t, ids, 200)
	starts := map[string]bool{}
	for i, id := range ids {
		require.Len(t, id, 34)
		starts[id[:18]] = true // the part that a narrow terminal shows
		of, index, ok := objects.SharedRecordOf(id)
		require.True(t, ok)
		require.Equal(t, record, of)
		require.Equal(t, i, index)
		require.Less(t, objects.SharedBefore("acme", id[:14]), key)
	}
	require.Len(t, starts, 200)
	require.Equal(t, "t_0198c2f3a1b28ffe", ids[0][:18])
	require.Equal(t, "t_0198c2f3a1b38000", ids[2][:18], "the time carries")
}

func TestOtherIDsHaveNoSharedRecord(t *testing.T) {
	for _, id := range []string{
		"", "t_", "t_0198c2f3a1b27ffe8123456789abcdef", "t_abcdefghijklmnopqrstuvwxyz", "t_0198c2f3a1b28ffe8123456789001001",
		"t_00000000000080008123456789003002", "t_0198C2F3A1B28ffe8123456789003001", strings.Repeat("8", 34),
	} {
		_, _, ok := objects.SharedRecordOf(id)
		require.False(t, ok, id)
	}
	for _, count := range []int{0, objects.MaxShared + 1} {
		_, err := objects.NewSharedRecord("t_0198c2f3a1b27ffe8123456789abcdef", count)
		require.Error(t, err)
	}
	_, ok := objects.ParseSharedKey("acme", "acme/pending/t_1.json")
	require.False(t, ok)
}
