package embedded

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/protobuf/proto"

	"github.com/clara-suite/clara/libs/clara"
)

// layout is what a collection's points consist of.
type layout struct {
	dense  []denseVector
	sparse []sparseVector
	fields map[string]qdrant.FieldType // indexed payload fields
}

type denseVector struct {
	name    string
	dims    int
	element element
}

type sparseVector struct {
	name string
	idf  bool
}

// state is one generation of a collection: its files, and what is kept of them
// in memory. Slots are given in the order of writing and never used again; a
// point that is replaced or deleted leaves a dead slot behind.
//
// The collection's lock guards all of it, save the files that it refers to:
// these stay until the last user has released them.
type state struct {
	layout
	generation int
	log        *appendLog
	rows       []*rows // one for each dense vector
	users      atomic.Int64

	slots    map[pointID]uint32 // of live points
	ids      []pointID          // by slot
	live     []bool             // by slot
	vectors  []uint64           // by slot: entry.vectors
	sums     []uint32           // by slot: entry.rows
	at       []int64            // by slot: place of the payload in the log
	size     []int32            // by slot: its length
	columns  map[string]*column
	inverted []map[uint32][]posting // for each sparse vector, by term
	carriers []int                  // for each sparse vector, live points that have it
	carries  []uint64               // by slot: bit i: has sparse vector i

	version uint64 // changes with every write
	sortMu  sync.Mutex
	sorted  []uint32 // live slots by id, as of sortedAt
	sortAt  uint64
}

type posting struct {
	slot   uint32
	weight float32
}

func logPath(dir string, generation int) string {
	return filepath.Join(dir, fmt.Sprintf("log.%06d", generation))
}

func rowsPath(dir string, vector, generation int) string {
	return filepath.Join(dir, fmt.Sprintf("v%d.%06d", vector, generation))
}

// openState reads a generation, or makes an empty one.
func openState(dir string, generation int, l layout) (s *state, torn int64, err error) {
	s = &state{
		layout: l, generation: generation,
		slots: map[pointID]uint32{}, columns: map[string]*column{},
		inverted: make([]map[uint32][]posting, len(l.sparse)), carriers: make([]int, len(l.sparse)),
		version: 1,
	}
	for i := range s.inverted {
		s.inverted[i] = map[uint32][]posting{}
	}
	for field, kind := range l.fields {
		s.columns[field] = newColumn(kind)
	}
	s.users.Store(1)
	s.log, torn, err = openLog(logPath(dir, generation), s.replay)
	if err != nil {
		return nil, 0, err
	}
	for i, v := range l.dense {
		r, err := openRows(rowsPath(dir, i, generation), v, len(s.ids))
		if err != nil {
			return nil, 0, errors.Join(err, s.closeFiles())
		}
		s.rows = append(s.rows, r)
	}
	return s, torn, syncDir(dir)
}

// replay takes a record of the log in; at is where its body begins.
func (s *state) replay(body []byte, at int64) error {
	r := &recordReader{body: body}
	switch kind := r.take(1)[0]; kind {
	case recordUpsert:
		first, n := r.number(), r.number()
		if r.err == nil && first != len(s.ids) {
			return clara.Errorf(clara.Corrupt, "begins with slot %d, not %d", first, len(s.ids))
		}
		for range n {
			e, payloadAt := r.entry(len(s.layout.sparse))
			if r.err != nil {
				return r.err
			}
			if err := s.add(e, at+int64(payloadAt)); err != nil {
				return err
			}
		}
	case recordDelete:
		for n := r.number(); n > 0 && r.err == nil; n-- {
			s.remove(r.id())
		}
	default:
		return clara.Errorf(clara.Corrupt, "is of unknown kind %d", kind)
	}
	s.version++
	return r.err
}

// entries calls each for the points of a record; records of deletions have none.
func (s *state) entries(body []byte, each func(slot int, e entry) error) error {
	r := &recordReader{body: body}
	if r.take(1)[0] != recordUpsert {
		return r.err
	}
	first, n := r.number(), r.number()
	for i := range n {
		e, _ := r.entry(len(s.layout.sparse))
		if r.err != nil {
			return r.err
		}
		if err := each(first+i, e); err != nil {
			return err
		}
	}
	return r.err
}

// add takes a point in at the next slot; payloadAt is its payload's place in the log.
func (s *state) add(e entry, payloadAt int64) error {
	var payload qdrant.Struct
	if len(s.columns) > 0 {
		if err := proto.Unmarshal(e.payload, &payload); err != nil {
			return clara.Errorf(clara.Corrupt, "payload of a point: %w", err)
		}
	}
	s.remove(e.id)
	slot := uint32(len(s.ids))
	s.slots[e.id] = slot
	s.ids = append(s.ids, e.id)
	s.live = append(s.live, true)
	s.vectors = append(s.vectors, e.vectors)
	s.sums = append(s.sums, e.rows)
	s.at = append(s.at, payloadAt)
	s.size = append(s.size, int32(len(e.payload)))
	for field, c := range s.columns {
		c.add(payload.GetFields()[field])
	}
	carries := uint64(0)
	for i, v := range e.sparse {
		if len(v.ids) == 0 {
			continue
		}
		carries |= 1 << i
		s.carriers[i]++
		for j, id := range v.ids {
			s.inverted[i][id] = append(s.inverted[i][id], posting{slot, v.weights[j]})
		}
	}
	s.carries = append(s.carries, carries)
	return nil
}

func (s *state) remove(id pointID) {
	slot, ok := s.slots[id]
	if !ok {
		return
	}
	delete(s.slots, id)
	s.live[slot] = false
	for i := range s.carriers {
		if s.carries[slot]>>i&1 == 1 {
			s.carriers[i]--
		}
	}
}

// payload reads a slot's payload from the log.
func (s *state) payload(slot int) (map[string]*qdrant.Value, error) {
	return s.readPayload(s.at[slot], s.size[slot])
}

func (s *state) readPayload(at int64, size int32) (map[string]*qdrant.Value, error) {
	b := make([]byte, size)
	if _, err := s.log.f.ReadAt(b, at); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "%s: payload at byte %d: %w", s.log.path, at, err)
	}
	var payload qdrant.Struct
	if err := proto.Unmarshal(b, &payload); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "%s: payload at byte %d: %w", s.log.path, at, err)
	}
	return payload.GetFields(), nil
}

// choose returns the live slots that meet a filter, ascending.
func (s *state) choose(f *qdrant.Filter) ([]uint32, error) {
	keep, err := s.compile(f)
	if err != nil {
		return nil, err
	}
	// A filter for certain ids is not worth a look at every slot.
	if ids := onlyIDs(f); ids != nil {
		return s.among(ids, keep)
	}
	var out []uint32
	for slot, live := range s.live {
		if !live {
			continue
		}
		ok, err := keep(slot)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, uint32(slot))
		}
	}
	return out, nil
}

// onlyIDs returns the ids that a filter is limited to; nil if it is not.
func onlyIDs(f *qdrant.Filter) []*qdrant.PointId {
	for _, c := range f.GetMust() {
		if h := c.GetHasId(); h != nil {
			return h.GetHasId()
		}
	}
	return nil
}

func (s *state) among(ids []*qdrant.PointId, keep test) ([]uint32, error) {
	parsed, err := parseIDs(ids)
	if err != nil {
		return nil, err
	}
	var out []uint32
	for _, id := range parsed {
		slot, ok := s.slots[id]
		if !ok {
			continue
		}
		if ok, err = keep(int(slot)); err != nil {
			return nil, err
		}
		if ok {
			out = append(out, slot)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// byID returns the live slots in the order of their ids. The slice is not changed afterwards.
func (s *state) byID() []uint32 {
	s.sortMu.Lock()
	defer s.sortMu.Unlock()
	if s.sortAt != s.version {
		sorted := make([]uint32, 0, len(s.slots))
		for _, slot := range s.slots {
			sorted = append(sorted, slot)
		}
		slices.SortFunc(sorted, func(a, b uint32) int { return compareID(s.ids[a], s.ids[b]) })
		s.sorted, s.sortAt = sorted, s.version
	}
	return s.sorted
}

// lexical returns the scores of the slots that share a term with the query. Those
// of slots that were not chosen are left out.
func (s *state) lexical(vector int, q sparse, chosen []uint32) []hit {
	allowed := make([]bool, len(s.ids))
	for _, slot := range chosen {
		allowed[slot] = true
	}
	scores := map[uint32]float32{}
	n := float64(s.carriers[vector])
	for i, id := range q.ids {
		list := s.inverted[vector][id]
		weight := float64(q.weights[i])
		if s.layout.sparse[vector].idf {
			with := 0
			for _, p := range list {
				if s.live[p.slot] {
					with++
				}
			}
			weight *= math.Log(1 + (n-float64(with)+0.5)/(float64(with)+0.5))
		}
		for _, p := range list {
			if allowed[p.slot] {
				scores[p.slot] += float32(weight) * p.weight
			}
		}
	}
	hits := make([]hit, 0, len(scores))
	for slot, score := range scores {
		hits = append(hits, hit{slot, score})
	}
	return hits
}

// hold keeps the files until release.
func (s *state) hold() { s.users.Add(1) }

// release gives the files free; the last to do so closes them.
func (s *state) release() error {
	if s.users.Add(-1) == 0 {
		return s.closeFiles()
	}
	return nil
}

func (s *state) closeFiles() error {
	err := s.log.f.Close()
	for _, r := range s.rows {
		err = errors.Join(err, r.close())
	}
	return err
}

// removeFiles deletes what is not of the current generation; readers that still have such a file open keep it.
func removeFiles(dir string, current int) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != configFile && filepath.Ext(e.Name()) != fmt.Sprintf(".%06d", current) {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}
