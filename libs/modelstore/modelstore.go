// Package modelstore keeps model packages in the blob store, below models/NAME/.
// The manifest is written last and read first: a package without one is not
// there. In a folder store packages are used in place; from any other they are
// fetched into a local cache, verified file by file, before they are loaded.
//
// Errors: NotFound, naming the package; Corrupt for one that does not verify;
// those of libs/blob and of modelpkg.Import. Safe for concurrent use.
package modelstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/clara-suite/clara/libs/blob"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/modelpkg"
)

// Store is the packages of a blob store.
type Store struct {
	bucket *blob.Bucket
	cache  string

	mu       sync.Mutex
	fetching map[string]*sync.Mutex // one fetch of a package at a time
	seen     map[string]seen        // by name
}

// seen is a manifest that was read: Dir is called for every request, so it reads one again only where it was written anew.
type seen struct {
	file     os.FileInfo // of a folder store
	raw      []byte
	manifest *modelpkg.Manifest
	id       string
}

// New makes a store; cache is the folder that packages are fetched into where the bucket is not a folder.
func New(bucket *blob.Bucket, cache string) *Store {
	return &Store{bucket: bucket, cache: cache, fetching: map[string]*sync.Mutex{}, seen: map[string]seen{}}
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,62}$`)

// CheckName refuses names that can't be a package's.
func CheckName(name string) error {
	if !nameForm.MatchString(name) || strings.Contains(name, "..") {
		return clara.Errorf(clara.Invalid, "model name %q: 1 to 63 lower-case letters, digits, '-', '_' and '.', starting with a letter or digit", name)
	}
	return nil
}

// Name makes a package's name of a path or hub id.
func Name(source string) string {
	s := strings.ToLower(filepath.Base(strings.TrimRight(filepath.ToSlash(source), "/")))
	s = strings.TrimSuffix(s, ".gguf")
	s = regexp.MustCompile(`[^a-z0-9_.-]+`).ReplaceAllString(s, "-")
	s = strings.Trim(strings.ReplaceAll(s, "..", "."), "-_.")
	return s[:min(len(s), 63)]
}

func prefix(name string) string { return "models/" + name }

// Import makes the package name from files on this machine.
func (s *Store) Import(ctx context.Context, name string, o modelpkg.ImportOptions) (*modelpkg.Manifest, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	o.Name = name
	if dir, ok := s.bucket.Path(prefix(name)); ok {
		if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
			return nil, clara.Errorf(clara.State, "make folder of models: %w", err)
		}
		return modelpkg.Import(ctx, dir, o)
	}
	dir := filepath.Join(s.cache, "import-"+name)
	if err := os.MkdirAll(s.cache, 0o750); err != nil {
		return nil, clara.Errorf(clara.State, "make model cache: %w", err)
	}
	defer os.RemoveAll(dir)
	m, err := modelpkg.Import(ctx, dir, o)
	if err != nil {
		return nil, err
	}
	for _, f := range m.Files {
		if err := s.put(ctx, dir, name, f.Path); err != nil {
			return nil, err
		}
	}
	return m, s.put(ctx, dir, name, modelpkg.ManifestFile)
}

func (s *Store) put(ctx context.Context, dir, name, file string) error {
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(file)))
	if err != nil {
		return clara.Errorf(clara.State, "store model %s: %w", name, err)
	}
	defer f.Close()
	_, err = s.bucket.Put(ctx, prefix(name)+"/"+file, f)
	return err
}

// Manifest reads the manifest of a package.
func (s *Store) Manifest(ctx context.Context, name string) (*modelpkg.Manifest, error) {
	raw, err := s.read(ctx, name)
	if err != nil {
		return nil, err
	}
	return modelpkg.ParseManifest(raw)
}

func (s *Store) read(ctx context.Context, name string) ([]byte, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	raw, err := s.bucket.ReadAll(ctx, prefix(name)+"/"+modelpkg.ManifestFile, 64<<20)
	if clara.KindOf(err) == clara.NotFound {
		return nil, clara.Errorf(clara.NotFound, "no model package %q; clara models list shows what there is", name)
	}
	return raw, err
}

// List returns the names of all packages.
func (s *Store) List(ctx context.Context) ([]string, error) {
	var names []string
	for e, err := range s.bucket.List(ctx, "models/") {
		if err != nil {
			return nil, err
		}
		if parts := strings.Split(e.Key, "/"); len(parts) == 3 && parts[2] == modelpkg.ManifestFile {
			names = append(names, parts[1])
		}
	}
	return names, nil
}

// Delete removes a package, its manifest first.
func (s *Store) Delete(ctx context.Context, name string) error {
	if _, err := s.Manifest(ctx, name); err != nil {
		return err
	}
	if err := s.bucket.Delete(ctx, prefix(name)+"/"+modelpkg.ManifestFile); err != nil {
		return err
	}
	for e, err := range s.bucket.List(ctx, prefix(name)+"/") {
		if err != nil {
			return err
		}
		if err := s.bucket.Delete(ctx, e.Key); err != nil {
			return err
		}
	}
	if dir, ok := s.bucket.Path(prefix(name)); ok {
		return os.RemoveAll(dir)
	}
	return nil
}

// Dir returns a folder on this machine that holds the package, fetching it first if it has to, and the hash of
// its manifest.
func (s *Store) Dir(ctx context.Context, name string) (dir, id string, err error) {
	m, id, err := s.known(ctx, name)
	if err != nil {
		return "", "", err
	}
	if dir, ok := s.bucket.Path(prefix(name)); ok {
		return dir, id, nil
	}
	lock := s.lock(id)
	lock.Lock()
	defer lock.Unlock()
	dir = filepath.Join(s.cache, id)
	if _, err := modelpkg.ReadManifest(dir); err == nil {
		return dir, id, nil
	}
	return dir, id, s.fetch(ctx, name, m, dir)
}

// known returns the present manifest of a package, which is not to be changed, and its hash.
func (s *Store) known(ctx context.Context, name string) (*modelpkg.Manifest, string, error) {
	s.mu.Lock()
	last := s.seen[name]
	s.mu.Unlock()
	now := seen{}
	if path, ok := s.bucket.Path(prefix(name) + "/" + modelpkg.ManifestFile); ok {
		if f, err := os.Stat(path); err == nil {
			now.file = f
		}
		// Manifests are moved to their place, so that one written anew is another file.
		if f := last.file; f != nil && now.file != nil && os.SameFile(f, now.file) && f.ModTime().Equal(now.file.ModTime()) && f.Size() == now.file.Size() {
			return last.manifest, last.id, nil
		}
	}
	var err error
	if now.raw, err = s.read(ctx, name); err != nil {
		return nil, "", err
	}
	if last.manifest != nil && bytes.Equal(last.raw, now.raw) {
		now.manifest, now.id = last.manifest, last.id
	} else if now.manifest, err = modelpkg.ParseManifest(now.raw); err != nil {
		return nil, "", err
	} else if now.id, err = now.manifest.ID(); err != nil {
		return nil, "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[name] = now
	return now.manifest, now.id, nil
}

func (s *Store) lock(id string) *sync.Mutex {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fetching[id] == nil {
		s.fetching[id] = new(sync.Mutex)
	}
	return s.fetching[id]
}

// fetch copies a package beside dir, verifies it, and moves it there in one step.
func (s *Store) fetch(ctx context.Context, name string, m *modelpkg.Manifest, dir string) error {
	if err := os.MkdirAll(s.cache, 0o750); err != nil {
		return clara.Errorf(clara.State, "make model cache: %w", err)
	}
	tmp, err := os.MkdirTemp(s.cache, "fetch-")
	if err != nil {
		return clara.Errorf(clara.State, "make model cache: %w", err)
	}
	defer os.RemoveAll(tmp)
	files := []string{modelpkg.ManifestFile}
	for _, f := range m.Files {
		files = append(files, f.Path)
	}
	for _, file := range files {
		if err := s.get(ctx, prefix(name)+"/"+file, filepath.Join(tmp, filepath.FromSlash(file))); err != nil {
			return fmt.Errorf("fetch model %s: %w", name, err)
		}
	}
	if err := modelpkg.Verify(tmp); err != nil {
		return fmt.Errorf("fetch model %s: %w", name, err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return clara.Errorf(clara.State, "fetch model %s: %w", name, err)
	}
	return nil
}

func (s *Store) get(ctx context.Context, key, path string) error {
	r, err := s.bucket.Get(ctx, key)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return clara.Errorf(clara.State, "write %s: %w", path, err)
	}
	f, err := os.Create(path)
	if err != nil {
		return clara.Errorf(clara.State, "write %s: %w", path, err)
	}
	_, err = f.ReadFrom(r)
	if err = errors.Join(err, f.Close()); err != nil {
		return clara.Errorf(clara.Unavailable, "copy %s: %w", key, err)
	}
	return nil
}
