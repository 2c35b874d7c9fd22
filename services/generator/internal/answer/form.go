package answer

import (
	"sync"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/grammar"
)

// maxForms is how many forms are kept: one that comes again knows already which tokens may follow where.
const maxForms = 32

// forms are the grammars of JSON schemas. Safe for concurrent use.
type forms struct {
	mu    sync.Mutex
	known map[string]*grammar.Grammar
}

// get returns the grammar of a schema; nil for "". Invalid.
func (f *forms) get(schema string) (*grammar.Grammar, error) {
	if schema == "" {
		return nil, nil
	}
	f.mu.Lock()
	g := f.known[schema]
	f.mu.Unlock()
	if g != nil {
		return g, nil
	}
	g, err := grammar.Compile([]byte(schema))
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "json_schema: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil || len(f.known) >= maxForms {
		f.known = map[string]*grammar.Grammar{}
	}
	f.known[schema] = g
	return g, nil
}
