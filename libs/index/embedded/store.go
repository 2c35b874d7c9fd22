package embedded

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/gofrs/flock"
	"github.com/qdrant/go-client/qdrant"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/clara-suite/clara/libs/clara"
)

const (
	lockFile     = "LOCK"
	manifestFile = "manifest.json"
	formatNow    = 1
)

// manifest is manifest.json.
type manifest struct {
	Format      int               `json:"format"`
	Next        int               `json:"next"`        // number of the next folder
	Collections map[string]string `json:"collections"` // name -> folder
	Aliases     map[string]string `json:"aliases"`     // alias -> name
}

func (m manifest) clone() manifest {
	m.Collections, m.Aliases = maps.Clone(m.Collections), maps.Clone(m.Aliases)
	return m
}

// store is the data folder.
type store struct {
	dir  string
	log  *slog.Logger
	lock *flock.Flock

	writeMu sync.Mutex // one change of the manifest at a time; held while syncing

	mu   sync.RWMutex // guards what is below; never held while writing to disk
	m    manifest
	open map[string]*collection
}

func openStore(dir string, log *slog.Logger) (*store, error) {
	if dir == "" {
		return nil, clara.Errorf(clara.Invalid, "index: no data folder given")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, clara.Errorf(clara.Unavailable, "index: make data folder: %w", err)
	}
	s := &store{dir: dir, log: log, lock: flock.New(filepath.Join(dir, lockFile)), open: map[string]*collection{}}
	ok, err := s.lock.TryLock()
	if err != nil {
		return nil, clara.Errorf(clara.Unavailable, "index: lock data folder %s: %w", dir, err)
	}
	if !ok {
		return nil, clara.Errorf(clara.State, "index: data folder %s is in use by another process; stop it or choose another folder", dir)
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(clara.Errorf(kindOf(err), "index: open data folder: %w", err), s.close())
	}
	return s, nil
}

// kindOf is Unavailable for errors of the disk.
func kindOf(err error) clara.Kind {
	if k := clara.KindOf(err); k != clara.Internal {
		return k
	}
	return clara.Unavailable
}

func (s *store) load() error {
	path := filepath.Join(s.dir, manifestFile)
	data, err := os.ReadFile(path)
	s.m = manifest{Format: formatNow, Next: 1}
	if err == nil {
		if err := json.Unmarshal(data, &s.m); err != nil {
			return clara.Errorf(clara.Corrupt, "%s: %w", path, err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if s.m.Format != formatNow {
		return clara.Errorf(clara.Unsupported, "%s: format %d; this program reads format %d", path, s.m.Format, formatNow)
	}
	if s.m.Collections == nil {
		s.m.Collections = map[string]string{}
	}
	if s.m.Aliases == nil {
		s.m.Aliases = map[string]string{}
	}
	for _, name := range slices.Sorted(maps.Keys(s.m.Collections)) {
		c, err := openCollection(filepath.Join(s.dir, s.m.Collections[name]), s.log)
		if err != nil {
			return fmt.Errorf("collection %s: %w", name, err)
		}
		s.open[name] = c
	}
	return s.sweep()
}

// sweep removes folders that no collection uses: what a create or drop left when it was cut short.
func (s *store) sweep() error {
	entries, err := os.ReadDir(s.dir)
	used := slices.Collect(maps.Values(s.m.Collections))
	for _, e := range entries {
		orphan := e.IsDir() && strings.HasPrefix(e.Name(), "c") && !slices.Contains(used, e.Name())
		if orphan || strings.HasPrefix(e.Name(), manifestFile+".tmp") {
			err = errors.Join(err, os.RemoveAll(filepath.Join(s.dir, e.Name())))
		}
	}
	return err
}

func (s *store) close() error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	var err error
	for _, c := range s.open {
		err = errors.Join(err, c.close())
	}
	return errors.Join(err, s.lock.Unlock())
}

func notFound(name string) error {
	return status.Errorf(codes.NotFound, "collection %s does not exist", name)
}

// collection returns a collection by its name or an alias.
func (s *store) collection(name string) (*collection, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := s.open[name]
	if c == nil {
		c = s.open[s.m.Aliases[name]]
	}
	if c == nil {
		return nil, notFound(name)
	}
	return c, nil
}

// save replaces the manifest on disk, then in memory together with the open collections. writeMu is held.
func (s *store) save(m manifest, apply func()) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(s.dir, manifestFile), data); err != nil {
		return diskError(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.m = m
	apply()
	return nil
}

func (s *store) create(request *qdrant.CreateCollection) error {
	name := request.GetCollectionName()
	if name == "" || len(name) > 255 {
		return status.Errorf(codes.InvalidArgument, "a collection name of %d bytes: 1 to 255 are allowed", len(name))
	}
	if _, err := layoutOf(request); err != nil {
		return err
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if s.m.Collections[name] != "" || s.m.Aliases[name] != "" {
		return status.Errorf(codes.AlreadyExists, "collection %s already exists", name)
	}
	m := s.m.clone()
	folder := fmt.Sprintf("c%06d", m.Next)
	m.Next++
	m.Collections[name] = folder
	dir := filepath.Join(s.dir, folder)
	// A folder of that number can only be what a create that failed left.
	if err := errors.Join(os.RemoveAll(dir), createCollection(dir, request), syncDir(s.dir)); err != nil {
		return diskError(err)
	}
	c, err := openCollection(dir, s.log)
	if err != nil {
		return diskError(err)
	}
	if err := s.save(m, func() { s.open[name] = c }); err != nil {
		return errors.Join(err, c.close())
	}
	return nil
}

func (s *store) drop(name string) (bool, error) {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	c := s.open[name]
	if c == nil {
		return false, nil
	}
	m := s.m.clone()
	folder := m.Collections[name]
	delete(m.Collections, name)
	maps.DeleteFunc(m.Aliases, func(_, target string) bool { return target == name })
	if err := s.save(m, func() { delete(s.open, name) }); err != nil {
		return false, err
	}
	if err := errors.Join(c.close(), os.RemoveAll(filepath.Join(s.dir, folder))); err != nil {
		return true, diskError(err)
	}
	return true, nil
}

// alias applies changes to the aliases, all or none.
func (s *store) alias(actions []*qdrant.AliasOperations) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	m := s.m.clone()
	for _, a := range actions {
		switch v := a.GetAction().(type) {
		case *qdrant.AliasOperations_CreateAlias:
			name, target := v.CreateAlias.GetAliasName(), v.CreateAlias.GetCollectionName()
			if m.Collections[target] == "" {
				return notFound(target)
			}
			if m.Collections[name] != "" || name == "" {
				return status.Errorf(codes.AlreadyExists, "alias %q: a collection has this name", name)
			}
			m.Aliases[name] = target
		case *qdrant.AliasOperations_DeleteAlias:
			delete(m.Aliases, v.DeleteAlias.GetAliasName())
		case *qdrant.AliasOperations_RenameAlias:
			from, to := v.RenameAlias.GetOldAliasName(), v.RenameAlias.GetNewAliasName()
			if m.Aliases[from] == "" {
				return status.Errorf(codes.NotFound, "alias %s does not exist", from)
			}
			m.Aliases[to] = m.Aliases[from]
			delete(m.Aliases, from)
		default:
			return unimplemented("this action on aliases")
		}
	}
	return s.save(m, func() {})
}

// diskError gives an error a gRPC status that its reader can act on.
func diskError(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	switch clara.KindOf(err) {
	case clara.Corrupt:
		return status.Error(codes.DataLoss, err.Error())
	case clara.Unsupported:
		return status.Error(codes.Unimplemented, err.Error())
	}
	return status.Errorf(codes.Unavailable, "write to the data folder: %v", err)
}
