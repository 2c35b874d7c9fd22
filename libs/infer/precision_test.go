package infer_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
)

// TestHalfWithoutCUDA: a half asks for CUDA. Without it the package's float32 takes its place, and an error says what to do
// where there is none.
func TestHalfWithoutCUDA(t *testing.T) {
	dir := t.TempDir()
	base, ck := filepath.Join(dir, "base"), filepath.Join(dir, "clara")
	tinymodel.Base(t, base, tinymodel.Default(), 1)
	tinymodel.Checkpoint(t, ck, base, 40, 10, 1)
	onCPU := infer.Options{Runtime: ort.Options{Provider: ort.CPU}}
	for _, half := range []modelpkg.Precision{modelpkg.BF16, modelpkg.FP16} {
		t.Run(string(half), func(t *testing.T) {
			all := filepath.Join(t.TempDir(), "all")
			_, err := modelpkg.Import(t.Context(), all, modelpkg.ImportOptions{Base: base, Checkpoint: ck,
				Precision: modelpkg.Precisions{Encoder: half, Reasoner: half, Decoder: half}})
			require.NoError(t, err)
			_, err = infer.Open(t.Context(), all, onCPU)
			require.ErrorContains(t, err, "import it with --precision fp32")
			assert.ErrorContains(t, err, string(half)+", which takes CUDA")
			assert.Equal(t, clara.State, clara.KindOf(err))

			mixed := filepath.Join(t.TempDir(), "mixed")
			m, err := modelpkg.Import(t.Context(), mixed, modelpkg.ImportOptions{Base: base, Checkpoint: ck, Precision: modelpkg.Precisions{Decoder: half}})
			require.NoError(t, err)
			assert.Equal(t, modelpkg.FP32, m.Precision(infer.Encoder))
			assert.Equal(t, half, m.Precision(infer.Decoder))
			assert.Less(t, m.WeightBytes(half), m.WeightBytes(modelpkg.FP32))
			e := open(t, mixed, onCPU)
			_, note := e.Provider()
			assert.Contains(t, note, "fp32 is used in its place")
			assert.Equal(t, m.WeightBytes(modelpkg.FP32), e.Memory().Weights)
		})
	}
}

// TestHalfMemories runs all roles in fp16 on the processor: memories agree with float32, answers from them come, and keys
// and values in halves are moved, kept and taken up again as in float32.
func TestHalfMemories(t *testing.T) {
	dir := t.TempDir()
	base, ck := filepath.Join(dir, "base"), filepath.Join(dir, "clara")
	tinymodel.Base(t, base, tinymodel.Default(), 1)
	tinymodel.Checkpoint(t, ck, base, 40, 10, 1)
	pkg := filepath.Join(dir, "pkg")
	all := modelpkg.Precisions{Encoder: modelpkg.FP32, Reasoner: modelpkg.FP32, Decoder: modelpkg.FP16}
	_, err := modelpkg.Import(t.Context(), pkg, modelpkg.ImportOptions{Base: base, Checkpoint: ck, Precision: all})
	require.NoError(t, err)
	exact := open(t, pkg, infer.Options{Context: 96, Precision: modelpkg.FP32})
	texts := []string{"one text", "and another, which is longer"}
	want, err := exact.CompressTexts(t.Context(), texts)
	require.NoError(t, err)
	for name, o := range map[string]infer.Options{"processor": {}, "device": infer.OnDevice(infer.Options{})} {
		t.Run(name, func(t *testing.T) {
			o.Context, o.Precision, o.Streams, o.Slowdown = 96, modelpkg.FP16, 2, 1e9
			half := open(t, pkg, o)
			assert.EqualValues(t, exact.Memory().Cache/int64(exact.Options().Streams), 2*half.Memory().Cache/2)
			got, err := half.CompressTexts(t.Context(), texts)
			require.NoError(t, err)
			for i := range want {
				assert.InDeltaSlice(t, want[i].Data, got[i].Data, 0.05)
			}
			ids := []int32{5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20}
			request := infer.Request{Prompt: infer.Prompt{IDs: ids, Slots: []infer.Slot{{At: 6, Memory: got[1]}}}, Adapter: true, MaxTokens: 12, StopIDs: []int32{}}
			first, _, _, err := generate(t.Context(), half, request)
			require.NoError(t, err)
			for range 3 { // from the third time on what prompts begin with in common is copied
				again, _, _, err := generate(t.Context(), half, request)
				require.NoError(t, err)
				assert.Equal(t, first, again)
			}
		})
	}
}
