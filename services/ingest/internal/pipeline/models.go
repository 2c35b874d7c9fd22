package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"unicode"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/index"
	"github.com/clara-suite/clara/libs/modelpkg"
	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
	"github.com/clara-suite/clara/services/ingest/internal/split"
)

// textLimit is the limit of a passage, in tokens, where the model has no encoder (design: architecture, "In").
const textLimit = 256

// Cutting is how documents are cut for a model package.
type Cutting struct {
	Limit  int
	Memory bool   // the package has an encoder
	key    string // tokenizer, limit and splitter: what makes one passage set equal another
	model  string // encoder hash
	count  func(string) int
}

// Index names the physical index of a collection, told apart from earlier ones of its name by uid. How memories are
// kept is part of the name.
func (c Cutting) Index(collection, uid string, p ingestv1.MemoryPrecision) string {
	sum := sha256.Sum256([]byte(uid + "\x00" + c.model + "\x00" + c.key))
	hash := hex.EncodeToString(sum[:6])
	if !c.Memory {
		return index.Name(collection, hash, false)
	}
	return index.NameFor(collection, hash, precisions[p])
}

// precisions are how the index calls them; a record from before there was a choice has none.
var precisions = map[ingestv1.MemoryPrecision]index.Precision{
	ingestv1.MemoryPrecision_MEMORY_PRECISION_FP16: index.FP16,
	ingestv1.MemoryPrecision_MEMORY_PRECISION_INT8: index.Int8,
	ingestv1.MemoryPrecision_MEMORY_PRECISION_INT4: index.Int4,
}

// Models knows how to cut for each model package.
type Models struct {
	// Dir returns the folder of a package and the hash of its manifest.
	Dir func(ctx context.Context, name string) (dir, id string, err error)

	mu   sync.Mutex
	open map[string]Cutting // by id of the manifest
}

// Cutting returns how to cut for the package, models/{name}; "" is no package: lengths are then estimated.
func (m *Models) Cutting(ctx context.Context, model string) (Cutting, error) {
	if model == "" {
		return Cutting{Limit: textLimit, key: fmt.Sprintf("estimate/%d/%s", textLimit, split.Version), count: estimate}, nil
	}
	dir, id, err := m.Dir(ctx, strings.TrimPrefix(model, "models/"))
	if err != nil {
		return Cutting{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if c, ok := m.open[id]; ok {
		return c, nil
	}
	p, err := modelpkg.Open(dir)
	if err != nil {
		return Cutting{}, err
	}
	// The tokenizer outlives the package: only its weights are closed.
	defer p.Close()
	c := Cutting{Limit: textLimit, Memory: p.Manifest.HasAdapters(), count: p.Tokenizer.Count}
	if c.Memory {
		c.Limit, c.model = p.Manifest.DocMaxLength, p.Manifest.Hashes.Encoder
		prompts := p.Prompts
		c.count = prompts.EncoderPositions
	}
	if c.Limit < split.MinTokens {
		return Cutting{}, clara.Errorf(clara.Unsupported, "model %s takes documents of %d tokens: passages need %d at least", model, c.Limit, split.MinTokens)
	}
	c.key = fmt.Sprintf("%s/%d/%s", p.Manifest.Hashes.Tokenizer, c.Limit, split.Version)
	if m.open == nil {
		m.open = map[string]Cutting{}
	}
	m.open[id] = c
	return c, nil
}

// estimate counts tokens where there is no tokenizer, rather too many than too few: one for each letter that is
// a word by itself, one for every three bytes of other words.
func estimate(text string) int {
	n, run := 0, 0
	flush := func() { n, run = n+(run+2)/3, 0 }
	for _, r := range text {
		switch {
		case unicode.IsSpace(r):
			flush()
		case r > 0x2E80:
			flush()
			n++
		default:
			run += len(string(r))
		}
	}
	flush()
	return n
}
