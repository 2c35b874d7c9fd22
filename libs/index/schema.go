package index

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"

	"github.com/qdrant/go-client/qdrant"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index/internal/dialect"
)

const (
	// MaxDense is how many values one dense vector of Qdrant takes.
	MaxDense = 65536
	// MaxMemory is how many values (m*H) a memory may have: 4 MiB on the wire,
	// what one upsert message carries with room to spare.
	MaxMemory = 1 << 20
	// DefaultKeyDims is the size of the search key where a memory is split and the schema names none.
	DefaultKeyDims = 4096
)

// Schema is the shape of what an index holds. The zero Schema is an index of text only.
type Schema struct {
	// M and H are the shape of the memories: m vectors of H values; both 0 without an encoder.
	M, H int
	// Key is the projection that finds candidates. The zero Key searches the
	// memories as they are, unless one is kept as more than one vector (see
	// [Schema.Split]): then it is DefaultKeyDims with seed 0.
	Key Key
	// Memories says how the numbers of memories are kept.
	Memories Precision
}

// Key is a fixed random projection of a memory to Dims values, the same for
// ever for the same Seed, Dims and m*H.
//
// The memory, padded with zeros to a power of two, has its signs flipped by the
// bits of the SplitMix64 stream of Seed (bit i%64 of output i/64), goes through
// a Walsh-Hadamard transform, and Dims of its values are kept: those at the
// positions that a partial Fisher-Yates shuffle picks, fed from the same stream
// (j = i + next mod (n-i)). Dot products survive in expectation, with an error
// of about 1/sqrt(Dims) in the cosine.
type Key struct {
	Dims int
	Seed uint64
}

// Values is m*H.
func (s Schema) Values() int { return s.M * s.H }

// Check returns Invalid for an impossible schema and Unsupported for a memory
// larger than a point can hold.
func (s Schema) Check() error {
	switch {
	case s.Memories > Int4:
		return clara.Errorf(clara.Invalid, "index schema: memories of unknown precision %d", s.Memories)
	case s == Schema{}:
		return nil
	case s.M <= 0 || s.H <= 0:
		return clara.Errorf(clara.Invalid, "index schema: memory of shape [%d, %d]", s.M, s.H)
	case s.M > MaxMemory || s.H > MaxMemory || s.Values() > MaxMemory:
		return clara.Errorf(clara.Unsupported, "index schema: a memory of shape [%d, %d] has more than the %d values that one point holds; use a higher compress rate", s.M, s.H, MaxMemory)
	case s.Key.Dims < 0 || s.Key.Dims > MaxDense || s.Key.Dims > padded(s.Values()):
		return clara.Errorf(clara.Invalid, "index schema: key of %d dims for a memory of %d values", s.Key.Dims, s.Values())
	}
	return nil
}

// filled returns s with the default key where one is needed.
func (s Schema) filled() Schema {
	if s.Split() && s.Key.Dims == 0 {
		s.Key.Dims = DefaultKeyDims
	}
	return s
}

// dims is how many values the vectors of a memory have together: numbers of it in half precision, or bytes of codes.
func (s Schema) dims() int {
	if s.Memories == FP16 {
		return s.Values()
	}
	return s.M * s.rowBytes()
}

// Split reports whether a memory is more than one vector can hold, so that a key finds candidates.
func (s Schema) Split() bool { return s.dims() > MaxDense }

// MemoryBytes is what one memory takes in an index: its vectors, the key where there is one, and its scales.
func (s Schema) MemoryBytes() int {
	s = s.filled()
	switch {
	case s.Values() == 0:
		return 0
	case s.Memories == FP16:
		return 2*s.dims() + 2*s.Key.Dims + 16
	}
	return s.dims() + 2*s.Key.Dims + 16 + base64.RawStdEncoding.EncodedLen(4*s.M)
}

// Stored returns a memory as an index of this schema gives it back. Errors are those of [Index.Upsert].
func (s Schema) Stored(m clara.Memory) (clara.Memory, error) {
	if err := m.Check(); err != nil {
		return clara.Memory{}, err
	}
	if m.M != s.M || m.H != s.H {
		return clara.Memory{}, clara.Errorf(clara.State, "a memory of shape [%d, %d], not [%d, %d]", m.M, m.H, s.M, s.H)
	}
	out := clara.Memory{M: s.M, H: s.H}
	if s.Memories == FP16 {
		values, scale, _, err := pack(m.Data)
		out.Data = unpack(values, scale)
		return out, err
	}
	c := &coder{s, newRotation(s.H)}
	k, err := c.encode(m.Data)
	if err == nil {
		out.Data = c.decode(k)
	}
	return out, err
}

// parts says how many vectors a memory is split into and how many values each
// has; the last is padded with zeros.
func (s Schema) parts() (n, size int) {
	d := s.dims()
	n = (d + MaxDense - 1) / MaxDense
	return n, (d + n - 1) / n
}

// Name is the physical index of a collection for the hash of an encoder and
// splitting: "collection.hash", or "collection.text.hash" without an encoder.
func Name(collection, hash string, encoder bool) string {
	if encoder {
		return NameFor(collection, hash, FP16)
	}
	return collection + ".text." + hash
}

// NameFor is Name with an encoder, for memories kept in another precision than
// FP16: "collection.int8.hash", "collection.int4.hash".
func NameFor(collection, hash string, p Precision) string {
	if p == FP16 {
		return collection + "." + hash
	}
	return collection + "." + p.String() + "." + hash
}

// PrecisionOf is the precision that the name of a physical index says.
func PrecisionOf(name string) Precision {
	if parts := strings.Split(name, "."); len(parts) == 3 {
		if p, err := ParsePrecision(parts[1]); err == nil {
			return p
		}
	}
	return FP16
}

// checkName refuses names that Qdrant would refuse or that could leave a data folder.
func checkName(name string) error {
	if name == "" || len(name) > 255 || name == "." || name == ".." || strings.ContainsAny(name, "<>:\"/\\|?*\x00\x1f") {
		return clara.Errorf(clara.Invalid, "index name %q: 1 to 255 bytes without < > : \" / \\ | ? *", name)
	}
	return nil
}

// Names of the vectors of a point, and keys of a collection's metadata.
const (
	vectorMemory = "memory" // "memory", or "memorya", "memoryb" .. where there is a key
	vectorKey    = "key"
	vectorText   = "text"

	metaName    = "clara_name"
	metaM       = "clara_m"
	metaH       = "clara_h"
	metaKeyDims = "clara_key_dims"
	metaKeySeed = "clara_key_seed"
	metaStored  = "clara_memories" // none: fp16
)

// indexed are the payload fields that filters use.
var indexed = []struct {
	field string
	kind  qdrant.FieldType
}{
	{fieldCollection, qdrant.FieldType_FieldTypeKeyword},
	{fieldDocument, qdrant.FieldType_FieldTypeKeyword},
	{fieldSet, qdrant.FieldType_FieldTypeKeyword},
	{fieldRevision, qdrant.FieldType_FieldTypeInteger},
}

// Ensure makes the physical index if it does not exist and returns it.
// An index of that name with another schema is an Exists error.
func (c *Client) Ensure(ctx context.Context, name string, s Schema) (*Index, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	s = s.filled()
	x, err := c.Index(ctx, name)
	if clara.KindOf(err) == clara.NotFound {
		// Somebody else may be making the same one: then Create fails, and what counts is what there is now.
		createErr := c.q.CreateCollection(ctx, createRequest(name, s, c.nibbles))
		if x, err = c.Index(ctx, name); err != nil && createErr != nil {
			return nil, c.fault("create", name, createErr)
		}
	}
	if err != nil {
		return nil, err
	}
	if x.name != name || x.schema != s {
		return nil, clara.Errorf(clara.Exists, "index %s exists as %s with memories %v, not %v", name, x.name, x.schema, s)
	}
	// Repeated for an index that exists: a crash may have come between the two.
	for _, f := range indexed {
		_, err := c.q.CreateFieldIndex(ctx, &qdrant.CreateFieldIndexCollection{
			CollectionName: name, FieldName: f.field, FieldType: f.kind.Enum(), Wait: qdrant.PtrOf(true),
		})
		if err != nil {
			return nil, c.fault("index payload field "+f.field, name, err)
		}
	}
	return x, nil
}

func createRequest(name string, s Schema, nibbles bool) *qdrant.CreateCollection {
	vectors := map[string]*qdrant.VectorParams{}
	dense := func(name string, dims int, d qdrant.Distance, t qdrant.Datatype) {
		vectors[name] = &qdrant.VectorParams{
			Size:     uint64(dims),
			Distance: d,
			Datatype: t.Enum(),
			OnDisk:   qdrant.PtrOf(true),
			// No graph: every search is an exact scan.
			HnswConfig: &qdrant.HnswConfigDiff{M: qdrant.PtrOf(uint64(0))},
		}
	}
	if s.Key.Dims > 0 {
		dense(vectorKey, s.Key.Dims, qdrant.Distance_Dot, qdrant.Datatype_Float16)
	}
	for _, v := range s.vectorNames() {
		_, size := s.parts()
		if s.Memories == FP16 {
			dense(v, size, qdrant.Distance_Dot, qdrant.Datatype_Float16)
		} else {
			dense(v, size, qdrant.Distance_Euclid, qdrant.Datatype_Uint8)
		}
	}
	request := &qdrant.CreateCollection{
		CollectionName: name,
		OnDiskPayload:  qdrant.PtrOf(true),
		SparseVectorsConfig: qdrant.NewSparseVectorsConfig(map[string]*qdrant.SparseVectorParams{
			vectorText: {Modifier: qdrant.Modifier_Idf.Enum()},
		}),
		Metadata: map[string]*qdrant.Value{
			metaName:    qdrant.NewValueString(name),
			metaM:       qdrant.NewValueInt(int64(s.M)),
			metaH:       qdrant.NewValueInt(int64(s.H)),
			metaKeyDims: qdrant.NewValueInt(int64(s.Key.Dims)),
			metaKeySeed: qdrant.NewValueInt(int64(s.Key.Seed)), // two's complement: all 64 bits survive
		},
	}
	if s.Memories != FP16 {
		request.Metadata[metaStored] = qdrant.NewValueString(s.Memories.String())
		if s.Memories == Int4 && nibbles {
			request.Metadata[dialect.Nibbles] = qdrant.NewValueBool(true)
		}
	}
	if len(vectors) > 0 {
		request.VectorsConfig = qdrant.NewVectorsConfigMap(vectors)
	}
	return request
}

// vectorNames are the names of the vectors that hold a memory, in its order.
func (s Schema) vectorNames() []string {
	if s.Values() == 0 {
		return nil
	}
	if s.Key.Dims == 0 {
		return []string{vectorMemory}
	}
	n, _ := s.parts()
	names := make([]string, n)
	for i := range names {
		names[i] = vectorMemory + string(rune('a'+i))
	}
	return names
}

// Index opens an index by its physical name or by an alias. An alias is looked
// up once: the Index stays with the physical index even when the alias moves.
// It fails with NotFound if there is none.
func (c *Client) Index(ctx context.Context, name string) (*Index, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	info, err := c.q.GetCollectionInfo(ctx, name)
	if err != nil {
		return nil, c.fault("open", name, err)
	}
	meta := info.GetConfig().GetMetadata()
	physical := meta[metaName].GetStringValue()
	if physical == "" {
		return nil, clara.Errorf(clara.State, "index %s at %s: was not made by this program", name, c.addr)
	}
	s := Schema{
		M: int(meta[metaM].GetIntegerValue()), H: int(meta[metaH].GetIntegerValue()),
		Key: Key{Dims: int(meta[metaKeyDims].GetIntegerValue()), Seed: uint64(meta[metaKeySeed].GetIntegerValue())},
	}
	s.Memories, err = ParsePrecision(meta[metaStored].GetStringValue())
	if err := errors.Join(err, s.Check()); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "index %s at %s: %w", name, c.addr, err)
	}
	x := newIndex(c, physical, s)
	x.nibbles = meta[dialect.Nibbles].GetBoolValue()
	return x, nil
}

// Drop removes the physical index with all its points, and aliases to it. One that does not exist is no error.
func (c *Client) Drop(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	names, err := c.q.ListCollections(ctx)
	if err != nil {
		return c.fault("list", "", err)
	}
	if !slices.Contains(names, name) {
		return nil
	}
	err = c.q.DeleteCollection(ctx, name)
	if err = c.fault("drop", name, err); clara.KindOf(err) == clara.NotFound {
		return nil
	}
	return err
}

// List returns the names of all physical indexes, sorted.
func (c *Client) List(ctx context.Context) ([]string, error) {
	names, err := c.q.ListCollections(ctx)
	if err != nil {
		return nil, c.fault("list", "", err)
	}
	slices.Sort(names)
	return names, nil
}

// Aliases returns the physical index of every alias.
func (c *Client) Aliases(ctx context.Context) (map[string]string, error) {
	list, err := c.q.ListAliases(ctx)
	if err != nil {
		return nil, c.fault("list aliases", "", err)
	}
	aliases := make(map[string]string, len(list))
	for _, a := range list {
		aliases[a.GetAliasName()] = a.GetCollectionName()
	}
	return aliases, nil
}

// Alias makes the alias name the physical index, in one step: a search through
// the alias sees the old index or the new one. It fails with NotFound if the
// physical index does not exist.
func (c *Client) Alias(ctx context.Context, alias, name string) error {
	for _, n := range []string{alias, name} {
		if err := checkName(n); err != nil {
			return err
		}
	}
	err := c.q.UpdateAliases(ctx, []*qdrant.AliasOperations{
		qdrant.NewAliasDelete(alias),
		qdrant.NewAliasCreate(alias, name),
	})
	return c.fault("move alias "+alias, name, err)
}

// DropAlias removes an alias; one that does not exist is no error.
func (c *Client) DropAlias(ctx context.Context, alias string) error {
	aliases, err := c.Aliases(ctx)
	if err != nil {
		return err
	}
	if aliases[alias] == "" {
		return nil
	}
	return c.fault("drop alias", alias, c.q.DeleteAlias(ctx, alias))
}
