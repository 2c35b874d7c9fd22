package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/disk"
)

const (
	configFile = "collection.json"
	// A collection is rewritten when this many slots and more than half of all are dead.
	minDead = 1024
	// rewriteBatch is about how many bytes of rows are copied between two syncs of a rewrite.
	rewriteBatch = 8 << 20
)

// collectionConfig is collection.json.
type collectionConfig struct {
	Config     json.RawMessage             `json:"config"` // the qdrant.CreateCollection that made it
	Fields     map[string]qdrant.FieldType `json:"fields"`
	Generation int                         `json:"generation"`
}

// collection is a set of points.
type collection struct {
	dir     string
	request *qdrant.CreateCollection
	log     *slog.Logger

	writeMu sync.Mutex // one write, or rewrite, at a time; held while syncing
	failed  error      // why no more writes are taken; guarded by writeMu
	closed  bool       // guarded by writeMu
	jobs    sync.WaitGroup

	mu     sync.RWMutex // guards what is below; never held while writing to disk
	fields map[string]qdrant.FieldType
	s      *state // nil once closed
}

// createCollection makes a folder for a new collection.
func createCollection(dir string, request *qdrant.CreateCollection) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	config, err := protojson.Marshal(request)
	if err != nil {
		return err
	}
	return writeConfig(dir, collectionConfig{Config: config, Generation: 1})
}

func writeConfig(dir string, c collectionConfig) error {
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, configFile), data)
}

func openCollection(dir string, log *slog.Logger) (*collection, error) {
	path := filepath.Join(dir, configFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var config collectionConfig
	request := &qdrant.CreateCollection{}
	if err := errors.Join(json.Unmarshal(data, &config), protojson.Unmarshal(config.Config, request)); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "%s: %w", path, err)
	}
	if config.Fields == nil {
		config.Fields = map[string]qdrant.FieldType{}
	}
	c := &collection{dir: dir, request: request, log: log, fields: config.Fields}
	l, err := layoutOf(request)
	if err != nil {
		return nil, clara.Errorf(clara.Corrupt, "%s: %w", path, err)
	}
	l.fields = c.fields
	s, torn, err := openState(dir, config.Generation, l)
	if err != nil {
		return nil, err
	}
	if torn > 0 {
		log.Warn("cut off a write that was not finished", "collection", request.GetCollectionName(), "bytes", torn)
	}
	c.s = s
	return c, removeFiles(dir, config.Generation)
}

// layoutOf checks what a new collection asks for. Vectors other than of halves
// with distance Dot and of bytes with distance Euclid, and multivectors, are UNIMPLEMENTED.
func layoutOf(request *qdrant.CreateCollection) (layout, error) {
	var l layout
	if request.GetVectorsConfig().GetParams() != nil {
		return l, unimplemented("a vector without a name")
	}
	for name, p := range request.GetVectorsConfig().GetParamsMap().GetMap() {
		e, known := elementOf(p, request.GetMetadata())
		switch {
		case p.GetSize() < 1 || p.GetSize() > 65536:
			return l, status.Errorf(codes.InvalidArgument, "vector %s: %d dims are not within 1 to 65536", name, p.GetSize())
		case !known:
			return l, unimplemented("a vector other than Float16 with distance Dot or Uint8 with distance Euclid")
		case p.GetMultivectorConfig() != nil || p.GetQuantizationConfig() != nil:
			return l, unimplemented("a multivector or quantization")
		}
		l.dense = append(l.dense, denseVector{name, int(p.GetSize()), e})
	}
	for name, p := range request.GetSparseVectorsConfig().GetMap() {
		l.sparse = append(l.sparse, sparseVector{name, p.GetModifier() == qdrant.Modifier_Idf})
	}
	if len(l.dense) > 30 || len(l.sparse) > 30 {
		return l, unimplemented("more than 30 vectors a point")
	}
	slices.SortFunc(l.dense, func(a, b denseVector) int { return compareText(a.name, b.name) })
	slices.SortFunc(l.sparse, func(a, b sparseVector) int { return compareText(a.name, b.name) })
	return l, nil
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// read runs f on the state under the lock.
func (c *collection) read(f func(s *state) error) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.s == nil {
		return notFound(c.request.GetCollectionName())
	}
	return f(c.s)
}

// change runs a write: record makes the body of a log record from the state,
// which no one else changes meanwhile, and writes rows; nil is nothing to do.
func (c *collection) change(record func(s *state) ([]byte, error)) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if c.closed {
		return notFound(c.request.GetCollectionName())
	}
	if c.failed != nil {
		return diskError(c.failed)
	}
	body, err := record(c.s)
	if err == nil && body != nil {
		var at int64
		if at, err = c.s.log.append(body); err == nil {
			c.mu.Lock()
			err = c.s.replay(body, at)
			c.mu.Unlock()
			if err != nil {
				err = errors.Join(err, errUnsynced)
			}
		}
	}
	if errors.Is(err, errUnsynced) {
		c.failed = err
	}
	if err != nil {
		return diskError(err)
	}
	if dead := len(c.s.ids) - len(c.s.slots); dead >= minDead && dead > len(c.s.slots) {
		c.rewriteSoon()
	}
	return nil
}

// upsert writes points; entries and vectors go together. A nil vector is absent.
func (c *collection) upsert(entries []entry, vectors [][][]float32) error {
	return c.change(func(s *state) ([]byte, error) {
		need := int64(0)
		for _, r := range s.rows {
			need += int64(len(entries) * r.stride)
		}
		if err := disk.Room(c.dir, need); err != nil {
			return nil, err
		}
		first := len(s.ids)
		for i, r := range s.rows {
			if err := c.growRows(r, first+len(entries)); err != nil {
				return nil, err
			}
			data := make([]byte, len(entries)*r.stride)
			used := false
			for j := range entries {
				row := data[j*r.stride : (j+1)*r.stride]
				if v := vectors[j][i]; v != nil {
					r.element.encode(row, v)
					entries[j].vectors |= 1 << i
					entries[j].rows = addChecksum(entries[j].rows, row)
					used = true
				}
			}
			if !used {
				continue
			}
			if err := r.write(first, data); err != nil {
				return nil, err
			}
			if err := r.sync(); err != nil {
				return nil, errors.Join(err, errUnsynced)
			}
		}
		return appendUpsert(nil, first, entries), nil
	})
}

// growRows makes room for n rows. The chunks are guarded by mu, as searches take them.
func (c *collection) growRows(r *rows, n int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return r.grow(n)
}

// removeIDs deletes points; ids that do not exist are left out.
func (c *collection) removeIDs(ids []pointID) error {
	return c.change(func(s *state) ([]byte, error) {
		var live []pointID
		for _, id := range ids {
			if _, ok := s.slots[id]; ok {
				live = append(live, id)
			}
		}
		if len(live) == 0 {
			return nil, nil
		}
		return appendDelete(nil, live), nil
	})
}

// removeWhere deletes the points of a filter.
func (c *collection) removeWhere(f *qdrant.Filter) error {
	return c.change(func(s *state) ([]byte, error) {
		slots, err := s.choose(f)
		if err != nil || len(slots) == 0 {
			return nil, err
		}
		ids := make([]pointID, len(slots))
		for i, slot := range slots {
			ids[i] = s.ids[slot]
		}
		return appendDelete(nil, ids), nil
	})
}

// indexField starts to keep a payload field in memory for filters.
func (c *collection) indexField(field string, kind qdrant.FieldType) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if c.closed {
		return notFound(c.request.GetCollectionName())
	}
	if have, ok := c.fields[field]; ok && have == kind {
		return nil
	}
	col := newColumn(kind)
	for slot := range c.s.ids {
		payload, err := c.s.payload(slot)
		if err != nil {
			return diskError(err)
		}
		col.add(payload[field])
	}
	fields := map[string]qdrant.FieldType{field: kind}
	for f, k := range c.fields {
		if f != field {
			fields[f] = k
		}
	}
	if err := c.saveConfig(fields, c.s.generation); err != nil {
		return diskError(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fields, c.s.layout.fields, c.s.columns[field] = fields, fields, col
	return nil
}

func (c *collection) saveConfig(fields map[string]qdrant.FieldType, generation int) error {
	config, err := protojson.Marshal(c.request)
	if err != nil {
		return err
	}
	return writeConfig(c.dir, collectionConfig{Config: config, Fields: fields, Generation: generation})
}

// rewriteSoon starts a rewrite that waits for the write under way. writeMu is held.
func (c *collection) rewriteSoon() {
	c.jobs.Go(func() {
		c.writeMu.Lock()
		defer c.writeMu.Unlock()
		dead := 0
		if !c.closed && c.failed == nil {
			dead = len(c.s.ids) - len(c.s.slots)
		}
		if dead < minDead || dead <= len(c.s.slots) {
			return
		}
		start, bytes := time.Now(), c.s.log.size
		if err := c.rewrite(); err != nil {
			c.log.Warn("rewrite of a collection ended early; it goes on as it is", "collection", c.request.GetCollectionName(), "err", err)
			return
		}
		c.log.Info("rewrote a collection", "collection", c.request.GetCollectionName(), "points", len(c.s.ids),
			"dead", dead, "log_bytes_before", bytes, "log_bytes", c.s.log.size, "seconds", time.Since(start).Seconds())
	})
}

// rewrite copies what lives into a new generation and makes it the current one. writeMu is held.
func (c *collection) rewrite() error {
	old := c.s
	next, _, err := openState(c.dir, old.generation+1, old.layout)
	if err != nil {
		return err
	}
	if err = c.copyInto(next, old); err == nil {
		err = c.saveConfig(c.fields, next.generation)
	}
	if err != nil {
		return errors.Join(err, next.release(), removeFiles(c.dir, old.generation))
	}
	c.mu.Lock()
	c.s = next
	c.mu.Unlock()
	return errors.Join(old.release(), removeFiles(c.dir, next.generation))
}

// copyInto writes what lives in old to next, which is empty and no one else knows yet.
func (c *collection) copyInto(next, old *state) error {
	var entries []entry
	var slots []int
	bytes := 0
	flush := func() error {
		if len(entries) == 0 {
			return nil
		}
		first := len(next.ids)
		for i, r := range next.rows {
			from := old.rows[i].view()
			data := make([]byte, 0, len(slots)*r.stride)
			read := guard(func() {
				for _, slot := range slots {
					data = append(data, from.bytes(slot)...)
				}
			})
			if err := errors.Join(read, r.grow(first+len(slots)), r.write(first, data), r.sync()); err != nil {
				return err
			}
		}
		body := appendUpsert(nil, first, entries)
		at, err := next.log.append(body)
		if err != nil {
			return err
		}
		entries, slots, bytes = nil, nil, 0
		return next.replay(body, at)
	}
	end, _, err := old.log.walk(old.log.size, func(body []byte, _ int64) error {
		return old.entries(body, func(slot int, e entry) error {
			if !old.live[slot] {
				return nil
			}
			entries, slots = append(entries, e), append(slots, slot)
			bytes += len(e.payload)
			for _, r := range old.rows {
				bytes += r.stride
			}
			if bytes < rewriteBatch {
				return nil
			}
			return flush()
		})
	})
	if err == nil && end != old.log.size {
		err = clara.Errorf(clara.Corrupt, "%s: the record at byte %d is damaged", old.log.path, end)
	}
	return errors.Join(err, flush())
}

// search answers a query for the points closest to a vector.
func (c *collection) search(ctx context.Context, q vectorQuery) ([]*qdrant.ScoredPoint, error) {
	var hits []hit
	var view rowView
	var slots []uint32
	var s *state
	err := c.read(func(now *state) (err error) {
		if slots, err = now.choose(q.filter); err != nil {
			return err
		}
		dense, sparse, err := now.find(q)
		if err != nil {
			return err
		}
		if sparse >= 0 {
			hits = best(now.lexical(sparse, q.sparse, slots), q.limit)
		} else {
			slots = slices.DeleteFunc(slots, func(slot uint32) bool { return now.vectors[slot]>>dense&1 == 0 })
			view = now.rows[dense].view()
		}
		s = now
		s.hold()
		return nil
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.release() }() // only reading: nothing can be lost
	if q.dense != nil {
		if hits, err = scan(ctx, view, q.dense, slots, q.limit); err != nil {
			return nil, err
		}
	}
	hits = hits[min(q.offset, len(hits)):]
	out := make([]*qdrant.ScoredPoint, len(hits))
	for i, h := range hits {
		p, err := c.point(s, int(h.slot), q.payload, q.vectors)
		if err != nil {
			return nil, err
		}
		score := h.score
		if q.dense != nil {
			score = view.element.score(score)
		}
		out[i] = &qdrant.ScoredPoint{Id: p.GetId(), Payload: p.GetPayload(), Vectors: p.GetVectors(), Score: score, Version: uint64(h.slot)}
	}
	return out, nil
}

// point reads a slot back. The state must be held; what belongs to a slot never changes once it is written.
func (c *collection) point(s *state, slot int, payload payloadSelector, vectors vectorSelector) (*qdrant.RetrievedPoint, error) {
	var id pointID
	var views []rowView
	var has uint64
	var sum uint32
	var at int64
	var size int32
	c.mu.RLock()
	id, has, sum, at, size = s.ids[slot], s.vectors[slot], s.sums[slot], s.at[slot], s.size[slot]
	for _, r := range s.rows {
		views = append(views, r.view())
	}
	c.mu.RUnlock()
	out := &qdrant.RetrievedPoint{Id: id.proto()}
	if payload.any {
		fields, err := s.readPayload(at, size)
		if err != nil {
			return nil, err
		}
		out.Payload = payload.from(fields)
	}
	if !vectors.any {
		return out, nil
	}
	named := map[string]*qdrant.VectorOutput{}
	check := uint32(0)
	err := guard(func() {
		for i, v := range views {
			if has>>i&1 == 0 {
				continue
			}
			check = addChecksum(check, v.bytes(slot))
			if vectors.wants(s.dense[i].name) {
				data := make([]float32, v.dims)
				v.element.decode(data, v.bytes(slot))
				named[s.dense[i].name] = &qdrant.VectorOutput{Vector: &qdrant.VectorOutput_Dense{Dense: &qdrant.DenseVector{Data: data}}}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	if check != sum {
		return nil, clara.Errorf(clara.Corrupt, "%s: row %d does not match its checksum", s.rows[0].path, slot)
	}
	out.Vectors = &qdrant.VectorsOutput{VectorsOptions: &qdrant.VectorsOutput_Vectors{Vectors: &qdrant.NamedVectorsOutput{Vectors: named}}}
	return out, nil
}

// close waits for the write under way and gives the files free; searches under way keep them until they end.
func (c *collection) close() error {
	c.writeMu.Lock()
	if c.closed {
		c.writeMu.Unlock()
		return nil
	}
	c.closed = true
	c.mu.Lock()
	s := c.s
	c.s = nil
	c.mu.Unlock()
	c.writeMu.Unlock()
	c.jobs.Wait()
	return s.release()
}
