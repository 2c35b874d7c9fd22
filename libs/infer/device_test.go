package infer_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
)

// TestDeviceCache runs many requests whose keys and values lie in memory of the runtime's device, here the
// processor's: rows move, are kept and taken up again as on a GPU, and each request gets the tokens that it gets alone.
func TestDeviceCache(t *testing.T) {
	dir := tinymodel.Package(t, tinymodel.Default(), 4)
	device := open(t, dir, infer.OnDevice(infer.Options{Context: 96, Streams: 4, BatchTokens: 64, Slowdown: 1e9}))
	alone := open(t, dir, infer.Options{Context: 96, Streams: 1, BatchTokens: 1})
	assert.EqualValues(t, device.Memory().Cache, 4*alone.Memory().Cache)
	r := rand.New(rand.NewPCG(5, 8))
	shared := words(r, 24) // what prompts begin with in common
	memories, err := alone.CompressTexts(t.Context(), []string{"one text", "and another"})
	require.NoError(t, err)
	again, err := device.CompressTexts(t.Context(), []string{"one text", "and another"})
	require.NoError(t, err)
	for i := range memories {
		assert.InDeltaSlice(t, memories[i].Data, again[i].Data, 1e-4)
	}
	var wg sync.WaitGroup
	for i := range 24 {
		ids := append(append([]int32{}, shared[:r.IntN(25)]...), words(r, 1+r.IntN(30))...)
		request := infer.Request{Prompt: infer.Prompt{IDs: ids}, Adapter: i%3 == 0, MaxTokens: 1 + r.IntN(20), StopIDs: []int32{}}
		if len(ids) > 12 && i%2 == 0 {
			request.Prompt.Slots = []infer.Slot{{At: len(ids) - 9, Memory: memories[i%4/2]}}
		}
		want, _, _, err := generate(t.Context(), alone, request)
		require.NoError(t, err)
		wg.Go(func() {
			got, _, _, err := generate(t.Context(), device, request)
			if assert.NoError(t, err) {
				assert.Equal(t, want, got, fmt.Sprint(i))
			}
		})
	}
	wg.Wait()
}
