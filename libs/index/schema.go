package index

import (
	"context"
	"slices"
	"strings"

	"github.com/qdrant/go-client/qdrant"

	"github.com/clara-suite/clara/libs/clara"
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
	// memories as they are, unless m*H exceeds [MaxDense]: then it is
	// DefaultKeyDims with seed 0.
	Key Key
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
	case s.M == 0 && s.H == 0 && s.Key == Key{}:
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
	if s.Values() > MaxDense && s.Key.Dims == 0 {
		s.Key.Dims = DefaultKeyDims
	}
	return s
}

// parts says how many vectors a memory is split into and how many values each
// has; the last is padded with zeros.
func (s Schema) parts() (n, size int) {
	d := s.Values()
	n = (d + MaxDense - 1) / MaxDense
	return n, (d + n - 1) / n
}

// Name is the physical index of a collection for the hash of an encoder and
// splitting: "collection.hash", or "collection.text.hash" without an encoder.
func Name(collection, hash string, encoder bool) string {
	if encoder {
		return collection + "." + hash
	}
	return collection + ".text." + hash
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
		createErr := c.q.CreateCollection(ctx, createRequest(name, s))
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

func createRequest(name string, s Schema) *qdrant.CreateCollection {
	vectors := map[string]*qdrant.VectorParams{}
	dense := func(name string, dims int) {
		vectors[name] = &qdrant.VectorParams{
			Size:     uint64(dims),
			Distance: qdrant.Distance_Dot,
			Datatype: qdrant.Datatype_Float16.Enum(),
			OnDisk:   qdrant.PtrOf(true),
			// No graph: every search is an exact scan.
			HnswConfig: &qdrant.HnswConfigDiff{M: qdrant.PtrOf(uint64(0))},
		}
	}
	if s.Key.Dims > 0 {
		dense(vectorKey, s.Key.Dims)
	}
	for _, v := range s.vectorNames() {
		_, size := s.parts()
		dense(v, size)
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
	if err := s.Check(); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "index %s at %s: %w", name, c.addr, err)
	}
	return newIndex(c, physical, s), nil
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
