package hub_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/checkpoint/hub"
	"github.com/clara-suite/clara/libs/clara"
)

const revision = "0123456789abcdef0123456789abcdef01234567"

// server is a hub with one model; it cuts the first answer for the weights short.
type server struct {
	weights []byte
	sum     string
	cut     bool
	ranges  []string
	asked   []string
	tokens  []string
	status  int
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked = append(s.asked, r.URL.Path)
	s.tokens = append(s.tokens, r.Header.Get("Authorization"))
	if s.status != 0 {
		w.WriteHeader(s.status)
		return
	}
	switch r.URL.Path {
	case "/api/models/org/model":
		json.NewEncoder(w).Encode(map[string]any{"sha": revision, "siblings": []map[string]any{
			{"rfilename": "config.json", "size": 2},
			{"rfilename": "model.safetensors", "size": len(s.weights), "lfs": map[string]any{"sha256": s.sum, "size": len(s.weights)}},
			{"rfilename": "modeling_x.py", "size": 3},
			{"rfilename": "pytorch_model.bin", "size": 3},
			{"rfilename": "../../evil.json", "size": 3},
		}})
	case "/org/model/resolve/" + revision + "/config.json":
		w.Write([]byte("{}"))
	case "/org/model/resolve/" + revision + "/model.safetensors":
		s.ranges = append(s.ranges, r.Header.Get("Range"))
		if s.cut {
			s.cut = false
			w.Header().Set("Content-Length", "100")
			w.Write(s.weights[:40])
			return
		}
		http.ServeContent(w, r, "model.safetensors", time.Time{}, bytes.NewReader(s.weights))
	default:
		http.NotFound(w, r)
	}
}

func start(t *testing.T) (*server, *hub.Client) {
	s := &server{weights: bytes.Repeat([]byte("w"), 100)}
	sum := sha256.Sum256(s.weights)
	s.sum = hex.EncodeToString(sum[:])
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	return s, &hub.Client{Endpoint: web.URL + "/", Token: "secret", Cache: t.TempDir()}
}

func TestDownloadResumes(t *testing.T) {
	s, c := start(t)
	s.cut = true
	var done int64
	c.Progress = func(_ string, n, _ int64) { done = n }
	_, err := c.Download(context.Background(), "org/model")
	require.ErrorContains(t, err, "40 of 100")
	assert.Equal(t, clara.Unavailable, clara.KindOf(err))
	_, ok := hub.Lookup(c.Cache, "org/model")
	assert.False(t, ok, "half a model is not found")

	dir, err := c.Download(context.Background(), "org/model")
	require.NoError(t, err)
	assert.Equal(t, []string{"", "bytes=40-"}, s.ranges)
	assert.EqualValues(t, 100, done)
	found, ok := hub.Lookup(c.Cache, "org/model")
	require.True(t, ok)
	assert.Equal(t, dir, found)
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, entries, 2, "neither code nor pickles")
	assert.NotContains(t, strings.Join(s.asked, " "), "evil")
	assert.Equal(t, "Bearer secret", s.tokens[0])
	assert.Equal(t, filepath.Join(c.Cache, "models--org--model", "snapshots", revision), dir)
}

func TestDownloadRefuses(t *testing.T) {
	s, c := start(t)
	s.sum = strings.Repeat("0", 64)
	_, err := c.Download(context.Background(), "org/model")
	assert.ErrorContains(t, err, "SHA-256")
	assert.Equal(t, clara.Corrupt, clara.KindOf(err))
	for status, kind := range map[int]clara.Kind{401: clara.Denied, 404: clara.NotFound, 503: clara.Unavailable} {
		s.status = status
		_, err := c.Download(context.Background(), "org/model")
		assert.Equal(t, kind, clara.KindOf(err), status)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = c.Download(ctx, "org/model")
	assert.True(t, clara.IsContext(err))
}

func TestParseID(t *testing.T) {
	for s, want := range map[string]bool{
		"org/model": true, "gpt2": true, "Qwen/Qwen3-4B-Instruct-2507": true, "a/b/c": false, "../x": false,
		"org/..": false, "": false, "a b": false, "/abs": false, "org/a--b": false,
	} {
		_, ok := hub.ParseID(s)
		assert.Equal(t, want, ok, s)
	}
	assert.Equal(t, "hf download org/model", hub.ID("org/model").Command())
}

func TestCacheDir(t *testing.T) {
	for _, c := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{"cache", map[string]string{"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}, "/c"},
		{"home", map[string]string{"HF_HOME": "/h"}, "/h/hub"},
		{"xdg", map[string]string{"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := hub.CacheDir(func(k string) string { return c.env[k] })
			require.NoError(t, err)
			assert.Equal(t, filepath.FromSlash(c.want), got)
		})
	}
}
