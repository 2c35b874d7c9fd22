package ort

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
)

// Version is the ONNX Runtime release that the project is tested with; GPUVersion is the newest with CUDA.
const (
	Version    = "1.32.0"
	GPUVersion = "1.31.1"
)

// Library finds the runtime's shared library: the file CLARA_ONNXRUNTIME names,
// else lib/ of the project's cache (CLARA_CACHE, else the user's cache folder),
// else the program's folder or lib/ in or beside it. It returns a State error that lists the
// places if there is none.
func Library() (string, error) { return LibraryFor(CPU) }

// LibraryFor is Library for a provider: where CUDA may be used, the GPU build in the project's cache, which is there
// only if it was asked for (ORT=cuda scripts/deps.sh onnxruntime), goes before the other.
func LibraryFor(p Provider) (string, error) {
	if p := os.Getenv("CLARA_ONNXRUNTIME"); p != "" {
		if _, err := os.Stat(p); err != nil {
			return "", clara.Errorf(clara.State, "find ONNX Runtime: CLARA_ONNXRUNTIME: %w", err)
		}
		return p, nil
	}
	name := "libonnxruntime.so"
	switch runtime.GOOS {
	case "darwin":
		name = "libonnxruntime.dylib"
	case "windows":
		name = "onnxruntime.dll"
	}
	var places []string
	cache := os.Getenv("CLARA_CACHE")
	if cache == "" {
		root := os.Getenv("XDG_CACHE_HOME")
		if home, err := os.UserHomeDir(); root == "" && err == nil {
			root = filepath.Join(home, ".cache")
		}
		if root != "" {
			cache = filepath.Join(root, "clara")
		}
	}
	if cache != "" && p != CPU && runtime.GOOS == "linux" {
		gpu := filepath.Join(cache, "onnxruntime-gpu-"+GPUVersion, "lib", name)
		if _, err := os.Stat(gpu); err == nil {
			return gpu, nil
		}
	}
	if cache != "" {
		places = append(places, filepath.Join(cache, "onnxruntime-"+Version, "lib", name))
	}
	if exe, err := os.Executable(); err == nil {
		dir := filepath.Dir(exe)
		places = append(places, filepath.Join(dir, name), filepath.Join(dir, "lib", name), filepath.Join(filepath.Dir(dir), "lib", name))
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", clara.Errorf(clara.State, "find ONNX Runtime %s: not in %s; run `make deps` or set CLARA_ONNXRUNTIME to libonnxruntime.so",
		Version, strings.Join(places, ", "))
}
