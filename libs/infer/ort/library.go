package ort

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/clara-suite/clara/libs/clara"
)

// Version is the ONNX Runtime release that the project is tested with.
const Version = "1.32.0"

// Library finds the runtime's shared library: the file CLARA_ONNXRUNTIME names,
// else lib/ of the project's cache (CLARA_CACHE, else the user's cache folder),
// else the program's folder or lib/ in or beside it. It returns a State error that lists the
// places if there is none.
func Library() (string, error) {
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
