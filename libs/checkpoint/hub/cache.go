package hub

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/clara-suite/clara/libs/clara"
)

// ID is a model on the hub, "org/name" or, for old ones, "name".
type ID string

// ParseID returns the id, and false for what cannot be one.
func ParseID(s string) (ID, bool) {
	ok := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$`).MatchString(s)
	if !ok || strings.Contains(s, "..") || strings.Contains(s, "--") {
		return "", false
	}
	return ID(s), true
}

// Command returns the command that fetches the model with the hub's own tool.
func (id ID) Command() string { return "hf download " + string(id) }

// CacheDir returns the hub cache: HF_HUB_CACHE, HF_HOME/hub, or the default
// place under the user's cache folder.
func CacheDir(env func(string) string) (string, error) {
	for _, key := range []string{"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"} {
		if dir := env(key); dir != "" {
			return dir, nil
		}
	}
	if home := env("HF_HOME"); home != "" {
		return filepath.Join(home, "hub"), nil
	}
	cache := env("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", clara.Errorf(clara.State, "find the hub cache: %w; set HF_HOME", err)
		}
		cache = filepath.Join(home, ".cache")
	}
	return filepath.Join(cache, "huggingface", "hub"), nil
}

// folder returns the model's folder in a cache.
func (id ID) folder(cache string) string {
	return filepath.Join(cache, "models--"+strings.ReplaceAll(string(id), "/", "--"))
}

// Lookup returns the newest complete snapshot of the model in the cache: the
// one that refs/main names, else the latest that holds a config.json.
func Lookup(cache string, id ID) (dir string, ok bool) {
	root := id.folder(cache)
	complete := func(dir string) bool {
		info, err := os.Stat(filepath.Join(dir, "config.json"))
		if err != nil || info.IsDir() {
			return false
		}
		weights, err := os.ReadDir(dir)
		return err == nil && slices.ContainsFunc(weights, func(e os.DirEntry) bool { return strings.HasSuffix(e.Name(), ".safetensors") })
	}
	if ref, err := os.ReadFile(filepath.Join(root, "refs", "main")); err == nil {
		revision := strings.TrimSpace(string(ref))
		if dir := filepath.Join(root, "snapshots", revision); revision == filepath.Base(revision) && complete(dir) {
			return dir, true
		}
	}
	entries, err := os.ReadDir(filepath.Join(root, "snapshots"))
	if err != nil {
		return "", false
	}
	var newest time.Time
	for _, e := range entries {
		info, err := e.Info()
		dirHere := filepath.Join(root, "snapshots", e.Name())
		if err == nil && e.IsDir() && !strings.HasPrefix(e.Name(), ".") && complete(dirHere) && info.ModTime().After(newest) {
			newest, dir, ok = info.ModTime(), dirHere, true
		}
	}
	return dir, ok
}
