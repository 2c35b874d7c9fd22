package infer

import (
	"errors"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/onnx/decoder"
)

// bytesPerToken is what a token takes in the cache: keys and values of all layers.
func bytesPerToken(a arch.Model, d ort.DType) int64 {
	return int64(a.Layers) * 2 * int64(a.KVHeads) * int64(decoder.HeadWidth(a)/perWord(d)) * 4
}

// tokenBytes is what a token takes.
func (c *cache) tokenBytes() int64 { return int64(2*c.layers*c.heads*c.width) * 4 }

// perWord is how many numbers of a type take the room of a float32.
func perWord(d ort.DType) int {
	if d == ort.Float32 {
		return 1
	}
	return 2
}

// cache holds keys and values: for each layer and each of both [rows, KVHeads, C, HeadDim], so that
// consecutive rows are one tensor without copying. Where they are halves, two are kept as one float32, whose bits
// copies leave as they are: heads are of even width.
type cache struct {
	layers, rows, heads, context, width int // width in words
	dtype                               ort.DType

	data   []float32
	unmap  func() error
	memory *ort.Memory // in place of data where the session computes on a device
	fault  error       // of a copy within memory: no run after it counts
	aside  []float32   // a saved row
	tokens int         // in aside
}

// newCache reserves a cache, in the memory of the device that device, if not nil, computes on.
func newCache(a arch.Model, rows, context int, dtype ort.DType, device *ort.Session) (*cache, error) {
	c := &cache{layers: a.Layers, rows: rows, heads: a.KVHeads, context: context, width: decoder.HeadWidth(a) / perWord(dtype), dtype: dtype}
	n := 2 * c.layers * rows * c.rowSize()
	if device != nil {
		m, err := device.Allocate(ort.Float32, int64(n))
		if err != nil {
			return nil, clara.Errorf(clara.State, "reserve a cache of %d streams of %d tokens: %w; choose fewer streams or a smaller context", rows, context, err)
		}
		c.memory = m
		if err := c.clear(); err != nil {
			return nil, errors.Join(err, m.Close())
		}
		return c, nil
	}
	data, unmap, err := reserve(n)
	if err != nil {
		return nil, clara.Errorf(clara.State, "reserve a cache of %d streams of %d tokens (%d MiB): %w; choose fewer streams or a smaller context", rows, context, n>>18, err)
	}
	c.data, c.unmap = data, unmap
	return c, nil
}

func (c *cache) bytes() int64 {
	if c.memory != nil {
		return c.memory.Len() * 4
	}
	return int64(len(c.data)) * 4
}

// rowSize is the numbers of one row of one layer's keys.
func (c *cache) rowSize() int { return c.heads * c.context * c.width }

// view is rows [row, row+n) of a layer's keys (kv 0) or values (kv 1).
func (c *cache) view(layer, kv, row, n int) (*ort.Value, error) {
	size := c.rowSize()
	at := ((2*layer+kv)*c.rows + row) * size
	per := perWord(c.dtype)
	shape := []int64{int64(n), int64(c.heads), int64(c.context), int64(c.width * per)}
	if c.memory != nil {
		return c.memory.ViewAs(c.dtype, int64(at*per), shape...)
	}
	words := c.data[at : at+n*size]
	if c.dtype == ort.Float32 {
		return ort.NewValue(ort.Of(words, shape...))
	}
	return ort.NewValue(ort.Tensor{Shape: shape, Data: ort.Half{Type: c.dtype, Bits: ort.BitsOf(words)}})
}

// each calls f with the place of every head's numbers of a row.
func (c *cache) each(row int, f func(at int)) {
	for part := range 2 * c.layers {
		at := (part*c.rows + row) * c.rowSize()
		for range c.heads {
			f(at)
			at += c.context * c.width
		}
	}
}

func (c *cache) move(from, to, tokens int) {
	if from == to {
		return
	}
	if c.memory != nil { // a few large copies are faster there than many small ones
		size := c.rowSize()
		for part := range 2 * c.layers {
			at := part * c.rows
			c.keep(c.memory.Move(int64((at+to)*size), int64((at+from)*size), int64(size)))
		}
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

// keep holds on to the first fault of a copy.
func (c *cache) keep(err error) {
	if c.fault == nil {
		c.fault = err
	}
}

func (c *cache) read(row, tokens int) []float32 {
	n := tokens * c.width
	data := make([]float32, 0, 2*c.layers*c.heads*n)
	c.each(row, func(at int) {
		data = data[:len(data)+n]
		head := data[len(data)-n:]
		if c.memory != nil {
			c.keep(c.memory.Read(head, int64(at)))
			return
		}
		copy(head, c.data[at:at+n])
	})
	return data
}

func (c *cache) write(row, tokens int, data []float32, held int) {
	n := tokens * c.width
	c.each(row, func(at int) {
		if c.memory != nil {
			c.keep(c.memory.Write(int64(at), data[:n]))
		} else {
			copy(c.data[at:at+n], data)
		}
		data = data[held*c.width:]
	})
}

// clear makes memory finite: what lies behind a row's tokens may be multiplied by zero.
func (c *cache) clear() error {
	done := min(c.memory.Len(), 1<<16)
	if err := c.memory.Write(0, make([]float32, done)); err != nil {
		return err
	}
	for done < c.memory.Len() {
		n := min(done, c.memory.Len()-done)
		if err := c.memory.Move(done, 0, n); err != nil {
			return err
		}
		done += n
	}
	return nil
}

func (c *cache) close() error {
	if c.memory != nil {
		return c.memory.Close()
	}
	c.data = nil
	return c.unmap()
}
