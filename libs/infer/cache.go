package infer

import (
	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/onnx/decoder"
)

// bytesPerToken is what a token takes in the cache: keys and values of all layers.
func bytesPerToken(a arch.Model) int64 {
	return int64(a.Layers) * 2 * int64(a.KVHeads) * int64(decoder.HeadWidth(a)) * 4
}

// cache holds keys and values: for each layer and each of both [rows, KVHeads, C, HeadDim], so that
// consecutive rows are one tensor without copying.
type cache struct {
	layers, rows, heads, context, width int

	data   []float32
	unmap  func() error
	aside  []float32 // a saved row
	tokens int       // in aside
}

func newCache(a arch.Model, rows, context int) (*cache, error) {
	c := &cache{layers: a.Layers, rows: rows, heads: a.KVHeads, context: context, width: decoder.HeadWidth(a)}
	n := 2 * c.layers * rows * c.rowSize()
	data, unmap, err := reserve(n)
	if err != nil {
		return nil, clara.Errorf(clara.State, "reserve a cache of %d streams of %d tokens (%d MiB): %w; choose fewer streams or a smaller context", rows, context, n>>18, err)
	}
	c.data, c.unmap = data, unmap
	return c, nil
}

func (c *cache) bytes() int64 { return int64(len(c.data)) * 4 }

// rowSize is the numbers of one row of one layer's keys.
func (c *cache) rowSize() int { return c.heads * c.context * c.width }

// view is rows [row, row+n) of a layer's keys (kv 0) or values (kv 1).
func (c *cache) view(layer, kv, row, n int) ort.Tensor {
	size := c.rowSize()
	at := ((2*layer+kv)*c.rows + row) * size
	return ort.Of(c.data[at:at+n*size], int64(n), int64(c.heads), int64(c.context), int64(c.width))
}

// each calls f with every head's numbers of row a and of row b, as far as tokens go.
func (c *cache) each(row, tokens int, f func(head []float32)) {
	for part := range 2 * c.layers {
		at := (part*c.rows + row) * c.rowSize()
		for range c.heads {
			f(c.data[at : at+tokens*c.width])
			at += c.context * c.width
		}
	}
}

func (c *cache) move(from, to, tokens int) {
	if from == to {
		return
	}
	distance := (to - from) * c.rowSize()
	for part := range 2 * c.layers {
		at := (part*c.rows + from) * c.rowSize()
		for range c.heads {
			n := tokens * c.width
			copy(c.data[at+distance:at+distance+n], c.data[at:at+n])
			at += c.context * c.width
		}
	}
}

func (c *cache) save(row, tokens int) {
	c.aside, c.tokens = c.read(row, tokens), tokens
}

func (c *cache) restore(row int) {
	c.write(row, c.tokens, c.aside, c.tokens)
	c.aside = nil
}

func (c *cache) read(row, tokens int) []float32 {
	data := make([]float32, 0, 2*c.layers*c.heads*tokens*c.width)
	c.each(row, tokens, func(head []float32) { data = append(data, head...) })
	return data
}

func (c *cache) write(row, tokens int, data []float32, held int) {
	c.each(row, tokens, func(head []float32) {
		copy(head, data)
		data = data[held*c.width:]
	})
}

func (c *cache) close() error {
	c.data = nil
	return c.unmap()
}
