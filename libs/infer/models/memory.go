package models

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"golang.org/x/sync/errgroup"

	"github.com/clara-suite/clara/libs/clara"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
	"github.com/clara-suite/clara/proto/gen/clara/compressor/v1/compressorv1connect"
)

// ToProto writes a memory for the wire.
func ToProto(m clara.Memory) *compressorv1.Memory {
	data := make([]byte, 4*len(m.Data))
	for i, v := range m.Data {
		binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(v))
	}
	return &compressorv1.Memory{Tokens: int32(m.M), Hidden: int32(m.H), Data: data}
}

// FromProto reads a memory from the wire. Invalid if it has not as many values as it says, or values that are
// no numbers.
func FromProto(p *compressorv1.Memory) (clara.Memory, error) {
	m := clara.Memory{M: int(p.GetTokens()), H: int(p.GetHidden())}
	data := p.GetData()
	if m.M <= 0 || m.H <= 0 || int64(len(data)) != 4*int64(m.M)*int64(m.H) {
		return clara.Memory{}, clara.Errorf(clara.Invalid, "memory of %d bytes: shape [%d, %d] of float32 takes %d", len(data), m.M, m.H, 4*int64(m.M)*int64(m.H))
	}
	m.Data = make([]float32, len(data)/4)
	for i := range m.Data {
		v := math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		if v-v != 0 {
			return clara.Memory{}, clara.Errorf(clara.Invalid, "memory holds NaN or infinite numbers")
		}
		m.Data[i] = v
	}
	return m, nil
}

// Bounds of one call to the compressor: its reply must stay well below the largest message.
const (
	replyBytes = 16 << 20
	callBytes  = 8 << 20
	// callsAtOnce keeps the compressor at work while a reply travels.
	callsAtOnce = 2
)

// Compress asks the compressor for the memories of texts, in their order, in as many calls as it takes. memoryBytes
// is the size of one memory, 4*m*H.
func Compress(ctx context.Context, c compressorv1connect.CompressorServiceClient, model string, texts []string, memoryBytes int) ([]clara.Memory, error) {
	out := make([]clara.Memory, len(texts))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(callsAtOnce)
	most := max(1, replyBytes/max(memoryBytes, 1))
	for begin := 0; begin < len(texts) && ctx.Err() == nil; {
		end, size := begin, 0
		for end < len(texts) && end-begin < most && (end == begin || size+len(texts[end]) <= callBytes) {
			size += len(texts[end])
			end++
		}
		first, some := begin, texts[begin:end]
		begin = end
		group.Go(func() error {
			reply, err := c.Compress(ctx, &compressorv1.CompressRequest{Model: model, Texts: some})
			if err != nil {
				return err
			}
			if len(reply.Memories) != len(some) {
				return clara.Errorf(clara.Internal, "compressor returned %d memories of %d texts", len(reply.Memories), len(some))
			}
			for i, m := range reply.Memories {
				if out[first+i], err = FromProto(m); err != nil {
					return fmt.Errorf("memory of text %d from the compressor: %w", first+i, err)
				}
			}
			return nil
		})
	}
	return out, group.Wait()
}

// Scores returns the cosine of the query's memory with each document's, both flattened and normalised in float32
// (spec clara-model §5).
func Scores(q clara.Memory, docs []clara.Memory) ([]float64, error) {
	a := unit(q.Data)
	out := make([]float64, len(docs))
	for i, d := range docs {
		if d.M != q.M || d.H != q.H {
			return nil, clara.Errorf(clara.State, "memory %d has shape [%d, %d], the query's [%d, %d]: another model made it", i, d.M, d.H, q.M, q.H)
		}
		for j, x := range unit(d.Data) {
			out[i] += float64(a[j]) * float64(x)
		}
	}
	return out, nil
}

// unit scales a vector to length 1.
func unit(x []float32) []float32 {
	sum := 0.0
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	n := float32(max(math.Sqrt(sum), 1e-12))
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = v / n
	}
	return out
}
