package graph_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/onnx/graph"
)

// blockModel has products with three matrices [32, 64] in blocks of one x: plain, with a shift, and in two halves; the sums
// of groups are shared by the last two.
func blockModel(t *testing.T) []byte {
	t.Helper()
	g := graph.New("blocks")
	x := g.Input("x", graph.Float32, graph.Named("B"), graph.Fixed(64))
	product := func(name string, rows int64) graph.Value {
		return g.MatMulBlocks(x, g.External(name+".codes", graph.Uint8, []int64{rows, 2, 16}, graph.File{Path: "w.bin", Offset: 8, Length: rows * 32}),
			g.Floats(name+".scale", []int64{rows, 2}, make([]float32, rows*2)), 4, 32, name == "plain")
	}
	sum := g.GroupSum(x, 32)
	shift := func(name string, y graph.Value) graph.Value {
		return g.Add(y, g.MatMulT(sum, g.Floats(name+".shift", []int64{32, 2}, make([]float32, 64))))
	}
	g.Output("plain", product("plain", 32))
	g.Output("shifted", shift("shifted", product("shifted", 32)))
	parts := g.Split(product("halved", 64), 32, 32)
	g.Output("halved", shift("halved", g.Add(parts[0], parts[1])))
	var model bytes.Buffer
	_, err := g.WriteTo(&model)
	require.NoError(t, err)
	return model.Bytes()
}

// TestMoveBlocks moves the products that are taken, each as a whole, and leaves the others with all that they need.
func TestMoveBlocks(t *testing.T) {
	model := blockModel(t)
	for _, refused := range []string{"", "plain", "shifted", "halved"} {
		t.Run("without "+refused, func(t *testing.T) {
			var seen []string
			moved, n, err := graph.MoveBlocks(model, "own", func(b graph.Blocks) (int64, bool, error) {
				assert.Equal(t, []int{64, 32, 32}, []int{b.In, b.Out, b.Group})
				assert.Equal(t, "w.bin", b.Codes.Path)
				assert.EqualValues(t, 8, b.Codes.Offset)
				name := "plain"
				switch {
				case b.Halved:
					name = "halved"
					assert.Equal(t, 8, b.Bits)
					assert.Len(t, b.Scale.Raw, 4*128)
				case b.Shift.Raw != nil:
					name = "shifted"
				}
				assert.Equal(t, name != "plain", b.Exact)
				seen = append(seen, name)
				return 7, name != refused, nil
			})
			require.NoError(t, err)
			assert.Equal(t, []string{"plain", "shifted", "halved"}, seen)
			want := 3
			if refused != "" {
				want = 2
			}
			assert.Equal(t, want, n)
			assert.Equal(t, n, bytes.Count(moved, []byte("BlockProduct:"))) // in the names of nodes
			for _, name := range seen {
				assert.Equal(t, name == refused, bytes.Contains(moved, []byte(name+".codes")), name)
				assert.Equal(t, name == refused, bytes.Contains(moved, []byte(name+".scale")), name)
			}
			assert.Equal(t, refused == "shifted" || refused == "halved", bytes.Contains(moved, []byte("ReduceSum")))
			_, outputs, err := graph.Inspect(moved)
			require.NoError(t, err)
			assert.Len(t, outputs, 3)
		})
	}
	same, n, err := graph.MoveBlocks(model, "own", func(graph.Blocks) (int64, bool, error) { return 0, false, nil })
	require.NoError(t, err)
	assert.Zero(t, n)
	assert.Equal(t, model, same)
	_, _, err = graph.MoveBlocks(model, "own", func(graph.Blocks) (int64, bool, error) {
		return 0, false, clara.Errorf(clara.Unavailable, "no memory")
	})
	assert.Equal(t, clara.Unavailable, clara.KindOf(err))
	_, _, err = graph.MoveBlocks([]byte("no model"), "own", nil)
	assert.Equal(t, clara.Corrupt, clara.KindOf(err))
}
