package model

import (
	"slices"

	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// sharding is the base of zero_stage 3: the linear weights of a block lie in one row of bytes, of which every rank keeps its
// part on its device. A block is put together when a pass comes to it and dropped behind it, so a pass with gradients must
// run on a Tape, which computes blocks again. Embedding, head and norms are whole on every rank.
//
// Ranks have different numbers of micro batches and documents to compress, so they do not come to the same blocks at the same
// time. They meet block by block instead: each says which block it wants, and all give their parts of those that anybody
// wants. A rank that has nothing left to do goes on giving until all are done: Settle.
type sharding struct {
	group  *torchx.Group
	blocks []shardedBlock
}

// shardedBlock is a rank's part of one block.
type shardedBlock struct {
	own   tensor // uint8 [size / ranks]
	size  int64  // bytes of the whole row, a multiple of the number of ranks
	parts []part
}

// part is where a tensor lies in the row.
type part struct {
	at    int64
	dtype torchx.DType
	shape []int64
	put   func(b *block, t tensor)
}

// alignment of tensors in the row, for every element type and for vector loads.
const alignment = 64

// add cuts a block to this rank's part, owned by owner, and empties it. Its weights are on the host.
func (x *sharding) add(owner scope, b *block, dev torchx.Device) {
	owner.Sub(func(s scope) tensor {
		var sb shardedBlock
		var rows []tensor
		place := func(t tensor, put func(b *block, t tensor)) {
			if t == nil {
				return
			}
			in := t.Info()
			sb.parts = append(sb.parts, part{sb.size, in.DType, in.Shape, put})
			row := s.Bytes(t)
			n := row.Len()
			rows = append(rows, row)
			if rest := n % alignment; rest != 0 {
				rows = append(rows, s.Zeros(torchx.Uint8, torchx.CPU, alignment-rest))
				n += alignment - rest
			}
			sb.size += n
		}
		for _, at := range weightsOf {
			place(at(b).W, func(b *block, t tensor) { at(b).W = t })
			place(at(b).Scale, func(b *block, t tensor) { at(b).Scale = t })
			place(at(b).Bias, func(b *block, t tensor) { at(b).Bias = t })
		}
		world := int64(x.group.World)
		if rest := sb.size % (world * alignment); rest != 0 {
			rows = append(rows, s.Zeros(torchx.Uint8, torchx.CPU, world*alignment-rest))
			sb.size += world*alignment - rest
		}
		each := sb.size / world
		sb.own = owner.Clone(s.Move(s.Narrow(s.Cat(0, rows...), 0, int64(x.group.Rank)*each, each), dev))
		x.blocks = append(x.blocks, sb)
		for _, at := range weightsOf {
			at(b).W, at(b).Scale, at(b).Bias = nil, nil, nil
		}
		return sb.own
	})
}

// weightsOf are the linear weights of a block.
var weightsOf = []func(b *block) *torchx.Weight{
	func(b *block) *torchx.Weight { return &b.q }, func(b *block) *torchx.Weight { return &b.k }, func(b *block) *torchx.Weight { return &b.v },
	func(b *block) *torchx.Weight { return &b.qkv }, func(b *block) *torchx.Weight { return &b.o }, func(b *block) *torchx.Weight { return &b.gate },
	func(b *block) *torchx.Weight { return &b.up }, func(b *block) *torchx.Weight { return &b.gateUp }, func(b *block) *torchx.Weight { return &b.down },
}

// whole returns block i with all its weights; those that were gathered are owned by s. A lost peer is a fault.
func (m *Model) whole(s scope, i int) *block {
	if m.shards == nil {
		return &m.blocks[i]
	}
	var row tensor
	for row == nil {
		row = m.shards.meet(s, i)
	}
	full := m.blocks[i]
	for _, p := range m.shards.blocks[i].parts {
		p.put(&full, s.FromRow(row, p.at, p.dtype, p.shape...))
	}
	return &full
}

// Settle gives this rank's parts for as long as any rank wants blocks. Every rank calls it once it has none to want, before
// any other call to its peers. Without shards it does nothing.
func (m *Model) Settle() error {
	if m.shards == nil {
		return nil
	}
	return torchx.Do(func(s scope) error {
		for m.shards.meet(s, -1) != nil {
		}
		return nil
	})
}

// meet tells the peers that this rank wants a block, -1 for none, and gathers all that are wanted. It returns the row of the
// wanted block, owned by s. For -1 it returns this rank's part of some block, or nil if no rank wants any.
func (x *sharding) meet(s scope, want int) (row tensor) {
	wants := make([]float64, x.group.World)
	wants[x.group.Rank] = float64(want + 1)
	torchx.Check(x.group.Sum(wants))
	slices.Sort(wants)
	for _, w := range slices.Compact(wants) {
		i := int(w) - 1
		if i < 0 {
			continue
		}
		b := x.blocks[i]
		all := s.Empty(torchx.Uint8, b.own.Info().Device, b.size)
		torchx.Check(x.group.AllGather(all, b.own))
		if i == want {
			row = all
			continue
		}
		s.Free(all)
		if want < 0 {
			row = b.own
		}
	}
	return row
}
