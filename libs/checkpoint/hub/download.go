package hub

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
)

// DefaultEndpoint is the hub's address unless HF_ENDPOINT names another.
const DefaultEndpoint = "https://huggingface.co"

// Client downloads models.
type Client struct {
	Endpoint string       // DefaultEndpoint if empty
	Token    string       // sent to Endpoint only; may be empty
	Cache    string       // hub cache to download into
	HTTP     *http.Client // http.DefaultClient if nil
	// Progress, if not nil, is told how many of a file's bytes are there.
	Progress func(file string, done, total int64)
}

// NewClient returns a client as the environment describes it.
func NewClient(env func(string) string) (*Client, error) {
	cache, err := CacheDir(env)
	if err != nil {
		return nil, err
	}
	return &Client{Endpoint: env("HF_ENDPOINT"), Token: env("HF_TOKEN"), Cache: cache}, nil
}

// file is one file of a model as the hub lists it.
type file struct {
	Name string `json:"rfilename"`
	Size int64  `json:"size"`
	LFS  *struct {
		SHA256 string `json:"sha256"`
		Size   int64  `json:"size"`
	} `json:"lfs"`
}

// wanted says whether a file is needed to run the model.
func wanted(name string) bool {
	if path.Base(name) != name || name == "" || name[0] == '.' {
		return false
	}
	switch path.Ext(name) {
	case ".safetensors", ".jinja":
		return true
	case ".json":
		return true // configs, tokenizer, index: small
	case ".model", ".txt":
		return name == "tokenizer.model" || name == "merges.txt" || name == "vocab.txt"
	}
	return false
}

// Download fetches the model's main revision and returns its snapshot folder.
// What a broken-off download left is taken up again.
func (c *Client) Download(ctx context.Context, id ID) (string, error) {
	var info struct {
		SHA   string `json:"sha"`
		Files []file `json:"siblings"`
	}
	if err := c.list(ctx, id, &info); err != nil {
		return "", err
	}
	if b, err := hex.DecodeString(info.SHA); err != nil || len(b) != 20 {
		return "", clara.Errorf(clara.Unavailable, "download %s: the hub names no revision", id)
	}
	files := slices.DeleteFunc(info.Files, func(f file) bool { return !wanted(f.Name) })
	has := func(match func(string) bool) bool {
		return slices.ContainsFunc(files, func(f file) bool { return match(f.Name) })
	}
	if !has(func(n string) bool { return n == "config.json" }) || !has(func(n string) bool { return strings.HasSuffix(n, ".safetensors") }) {
		return "", clara.Errorf(clara.Unsupported, "download %s: the model has no config.json or no safetensors files", id)
	}
	root := id.folder(c.Cache)
	final := filepath.Join(root, "snapshots", info.SHA)
	partial := filepath.Join(root, "snapshots", "."+info.SHA+".partial")
	if err := os.MkdirAll(partial, 0o755); err != nil {
		return "", clara.Errorf(clara.Unavailable, "download %s: %w", id, err)
	}
	for _, f := range files {
		if err := c.fetch(ctx, id, info.SHA, f, partial); err != nil {
			return "", err
		}
	}
	if err := os.Rename(partial, final); err != nil && !errors.Is(err, os.ErrExist) {
		return "", clara.Errorf(clara.Unavailable, "download %s: %w", id, err)
	}
	refs := filepath.Join(root, "refs")
	if err := os.MkdirAll(refs, 0o755); err != nil {
		return "", clara.Errorf(clara.Unavailable, "download %s: %w", id, err)
	}
	if err := os.WriteFile(filepath.Join(refs, "main"), []byte(info.SHA), 0o644); err != nil {
		return "", clara.Errorf(clara.Unavailable, "download %s: %w", id, err)
	}
	return final, nil
}

func (c *Client) list(ctx context.Context, id ID, into any) error {
	resp, err := c.get(ctx, id, "/api/models/"+string(id)+"?blobs=true", 0)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(into); err != nil {
		return clara.Errorf(clara.Unavailable, "download %s: the hub's list of files is not readable: %w", id, err)
	}
	return nil
}

// fetch brings one file into dir, from where an earlier try stopped.
func (c *Client) fetch(ctx context.Context, id ID, revision string, f file, dir string) error {
	size := f.Size
	if f.LFS != nil && f.LFS.Size > 0 {
		size = f.LFS.Size
	}
	final := filepath.Join(dir, f.Name)
	if info, err := os.Stat(final); err == nil && info.Size() == size {
		return nil // was checked before it took this name
	}
	part := final + ".part"
	out, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return clara.Errorf(clara.Unavailable, "download %s: %w", id, err)
	}
	defer out.Close()
	have, err := out.Seek(0, io.SeekEnd)
	if err == nil && have > size {
		have, err = 0, out.Truncate(0)
	}
	if err != nil {
		return clara.Errorf(clara.Unavailable, "download %s: %w", id, err)
	}
	if have < size || size == 0 {
		if err := c.copy(ctx, id, revision, f.Name, out, have, size); err != nil {
			return err
		}
	}
	if err := verify(out, size, f); err != nil {
		os.Remove(part) // what is wrong must not be resumed
		return clara.Errorf(clara.Corrupt, "download %s: %s: %w", id, f.Name, err)
	}
	if err := errors.Join(out.Sync(), out.Close(), os.Rename(part, final)); err != nil {
		return clara.Errorf(clara.Unavailable, "download %s: %w", id, err)
	}
	return nil
}

func (c *Client) copy(ctx context.Context, id ID, revision, name string, out *os.File, have, size int64) error {
	resp, err := c.get(ctx, id, "/"+string(id)+"/resolve/"+revision+"/"+url.PathEscape(name), have)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		have = 0 // the server sends it all
	}
	if _, err := out.Seek(have, io.SeekStart); err != nil {
		return clara.Errorf(clara.Unavailable, "download %s: %w", id, err)
	}
	if err := out.Truncate(have); err != nil {
		return clara.Errorf(clara.Unavailable, "download %s: %w", id, err)
	}
	w := &progress{w: out, done: have, tell: func(done int64) {
		if c.Progress != nil {
			c.Progress(name, done, size)
		}
	}}
	// One byte more than announced is enough to know that the server sends too much.
	if _, err := io.Copy(w, io.LimitReader(resp.Body, size-have+1)); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return clara.Errorf(clara.Unavailable, "download %s: %s broke off at %d of %d bytes (run it again to go on): %w", id, name, w.done, size, err)
	}
	return nil
}

type progress struct {
	w    io.Writer
	done int64
	tell func(int64)
}

func (p *progress) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.done += int64(n)
	p.tell(p.done)
	return n, err
}

func verify(f *os.File, size int64, want file) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("%d bytes arrived, %d are announced", n, size)
	}
	if want.LFS != nil && want.LFS.SHA256 != "" && hex.EncodeToString(sum.Sum(nil)) != strings.ToLower(want.LFS.SHA256) {
		return errors.New("its SHA-256 differs from the hub's")
	}
	return nil
}

// get asks the hub; from > 0 asks for the rest of a file.
func (c *Client) get(ctx context.Context, id ID, path string, from int64) (*http.Response, error) {
	endpoint := strings.TrimRight(c.Endpoint, "/")
	if endpoint == "" {
		endpoint = DefaultEndpoint
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+path, nil)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "download %s: %w; check HF_ENDPOINT", id, err)
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token) // net/http drops it on redirects to other hosts
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, clara.Errorf(clara.Unavailable, "download %s: %w", id, err)
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent && from > 0 {
		return resp, nil
	}
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return nil, clara.Errorf(clara.Denied, "download %s: the hub answers %s: the model is gated or does not exist; set HF_TOKEN", id, resp.Status)
	case http.StatusNotFound:
		return nil, clara.Errorf(clara.NotFound, "download %s: the hub has no such model", id)
	}
	return nil, clara.Errorf(clara.Unavailable, "download %s: the hub answers %s", id, resp.Status)
}
