package embedded

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"

	"github.com/google/uuid"
	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clara-suite/clara/libs/clara"
)

// pointID is a UUID or a number; numbers sort before UUIDs.
type pointID struct {
	uuid   bool
	hi, lo uint64 // a number is in lo
}

func compareID(a, b pointID) int {
	if a.uuid != b.uuid {
		if b.uuid {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo))
}

func parseID(id *qdrant.PointId) (pointID, error) {
	switch v := id.GetPointIdOptions().(type) {
	case *qdrant.PointId_Num:
		return pointID{lo: v.Num}, nil
	case *qdrant.PointId_Uuid:
		u, err := uuid.Parse(v.Uuid)
		if err != nil {
			return pointID{}, status.Errorf(codes.InvalidArgument, "point id %q is no UUID: %v", v.Uuid, err)
		}
		return pointID{uuid: true, hi: binary.BigEndian.Uint64(u[:]), lo: binary.BigEndian.Uint64(u[8:])}, nil
	}
	return pointID{}, status.Error(codes.InvalidArgument, "a point has no id")
}

func parseIDs(ids []*qdrant.PointId) ([]pointID, error) {
	out := make([]pointID, len(ids))
	for i, id := range ids {
		var err error
		if out[i], err = parseID(id); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p pointID) proto() *qdrant.PointId {
	if !p.uuid {
		return qdrant.NewIDNum(p.lo)
	}
	var u uuid.UUID
	binary.BigEndian.PutUint64(u[:], p.hi)
	binary.BigEndian.PutUint64(u[8:], p.lo)
	return qdrant.NewIDUUID(u.String())
}

// entry is a point as the log has it: all but its dense vectors.
type entry struct {
	id      pointID
	vectors uint64   // bit i: has dense vector i of the collection
	rows    uint32   // CRC-32C of the rows of these vectors, in order
	sparse  []sparse // by sparse vector of the collection; none is an empty one
	payload []byte   // a qdrant.Struct
}

type sparse struct {
	ids     []uint32
	weights []float32
}

// The body of a record: a byte that says which, then
//
//	'U': first slot, number of points, and for each: id, vectors, row checksum,
//	     sparse vectors (length, ids, weights), payload (checksum, length, bytes)
//	'D': number of points, and their ids
const (
	recordUpsert = 'U'
	recordDelete = 'D'
)

func appendID(b []byte, id pointID) []byte {
	kind := byte(0)
	if id.uuid {
		kind = 1
	}
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint64(b, id.hi)
	return binary.LittleEndian.AppendUint64(b, id.lo)
}

func appendUpsert(b []byte, first int, entries []entry) []byte {
	b = append(b, recordUpsert)
	b = binary.AppendUvarint(b, uint64(first))
	b = binary.AppendUvarint(b, uint64(len(entries)))
	for _, e := range entries {
		b = appendID(b, e.id)
		b = binary.AppendUvarint(b, e.vectors)
		b = binary.LittleEndian.AppendUint32(b, e.rows)
		for _, s := range e.sparse {
			b = binary.AppendUvarint(b, uint64(len(s.ids)))
			for i, id := range s.ids {
				b = binary.LittleEndian.AppendUint32(b, id)
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(s.weights[i]))
			}
		}
		b = binary.LittleEndian.AppendUint32(b, checksum(e.payload))
		b = binary.AppendUvarint(b, uint64(len(e.payload)))
		b = append(b, e.payload...)
	}
	return b
}

func appendDelete(b []byte, ids []pointID) []byte {
	b = append(b, recordDelete)
	b = binary.AppendUvarint(b, uint64(len(ids)))
	for _, id := range ids {
		b = appendID(b, id)
	}
	return b
}

// recordReader takes a body apart; a fault sticks.
type recordReader struct {
	body []byte
	at   int
	err  error
}

func (r *recordReader) take(n int) []byte {
	if r.err == nil && (n < 0 || n > len(r.body)-r.at) {
		r.err = clara.Errorf(clara.Corrupt, "ends at byte %d of its body", r.at)
	}
	if r.err != nil {
		return make([]byte, min(max(n, 0), 16))
	}
	r.at += n
	return r.body[r.at-n : r.at]
}

func (r *recordReader) number() int {
	v, n := binary.Uvarint(r.body[r.at:])
	if r.err == nil && (n <= 0 || v > math.MaxInt32) {
		r.err = clara.Errorf(clara.Corrupt, "has no number at byte %d of its body", r.at)
	}
	if r.err != nil {
		return 0
	}
	r.at += n
	return int(v)
}

func (r *recordReader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }

func (r *recordReader) id() pointID {
	b := r.take(17)
	if r.err != nil {
		return pointID{}
	}
	return pointID{uuid: b[0] == 1, hi: binary.LittleEndian.Uint64(b[1:]), lo: binary.LittleEndian.Uint64(b[9:])}
}

// entry reads a point with n sparse vectors; payloadAt is where its payload begins in the body.
func (r *recordReader) entry(n int) (e entry, payloadAt int) {
	e.id = r.id()
	e.vectors = uint64(r.number())
	e.rows = r.u32()
	e.sparse = make([]sparse, n)
	for i := range e.sparse {
		count := r.number()
		data := r.take(8 * count)
		if r.err != nil {
			return e, 0
		}
		s := sparse{ids: make([]uint32, count), weights: make([]float32, count)}
		for j := range count {
			s.ids[j] = binary.LittleEndian.Uint32(data[8*j:])
			s.weights[j] = math.Float32frombits(binary.LittleEndian.Uint32(data[8*j+4:]))
		}
		e.sparse[i] = s
	}
	sum := r.u32()
	size := r.number()
	payloadAt = r.at
	e.payload = bytes.Clone(r.take(size))
	if r.err == nil && checksum(e.payload) != sum {
		r.err = clara.Errorf(clara.Corrupt, "the payload of a point does not match its checksum")
	}
	return e, payloadAt
}
