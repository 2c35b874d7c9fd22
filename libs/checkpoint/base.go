package checkpoint

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/clara-suite/clara/libs/checkpoint/hub"
	"github.com/clara-suite/clara/libs/clara"
)

// BaseFinder finds the base model that a checkpoint names.
type BaseFinder struct {
	// Env reads the environment (HF_HOME and the like); os.Getenv if nil.
	Env func(string) string
	// Hub downloads; nil makes one from Env.
	Hub *hub.Client
	// Offline keeps from downloading, as HF_HUB_OFFLINE=1 does.
	Offline bool
}

// Find returns the folder or GGUF file of the base model. override (--base), if
// not empty, takes the place of name, which is decoder_model_name. In this
// order it is
//
//  1. an absolute path;
//  2. a path relative to a folder above checkpointDir, nearest first (a
//     checkpoint NAME/clara names NAME/base relative to what holds NAME);
//     then relative to the working folder. For an override the working folder
//     comes first;
//  3. a hub id in the local hub cache;
//  4. a hub id that can be downloaded.
//
// Else it is a NotFound error that prints the command which gets the model.
func (f BaseFinder) Find(ctx context.Context, name, override, checkpointDir string) (string, error) {
	wanted := name
	if override != "" {
		wanted = override
	}
	if wanted == "" {
		return "", clara.Errorf(clara.Invalid, "find the base model: the checkpoint names none; give --base")
	}
	if filepath.IsAbs(wanted) {
		if isModel(wanted) {
			return wanted, nil
		}
		return "", clara.Errorf(clara.NotFound, "find the base model: %s holds no model; give --base with the folder (config.json and safetensors) or GGUF file", wanted)
	}
	places, err := above(checkpointDir)
	if err != nil {
		return "", err
	}
	if override != "" {
		places = append([]string{"."}, places...)
	} else {
		places = append(places, ".")
	}
	for _, p := range places {
		if path := filepath.Join(p, wanted); isModel(path) {
			return path, nil
		}
	}
	nearby, way := "in the working folder", "give its folder"
	if checkpointDir != "" {
		nearby, way = "beside checkpoint "+checkpointDir+" or "+nearby, "give --base"
	}
	id, ok := hub.ParseID(wanted)
	if !ok {
		return "", clara.Errorf(clara.NotFound, "find the base model: no folder %s %s; %s", wanted, nearby, way)
	}
	return f.fromHub(ctx, id, nearby, way)
}

func (f BaseFinder) fromHub(ctx context.Context, id hub.ID, nearby, way string) (string, error) {
	env := f.Env
	if env == nil {
		env = os.Getenv
	}
	client := f.Hub
	if client == nil {
		var err error
		if client, err = hub.NewClient(env); err != nil {
			return "", err
		}
	}
	if dir, ok := hub.Lookup(client.Cache, id); ok {
		return dir, nil
	}
	why := clara.Errorf(clara.NotFound, "downloads are off")
	offline := strings.ToLower(env("HF_HUB_OFFLINE"))
	if !f.Offline && (offline == "" || offline == "0" || offline == "false" || offline == "no" || offline == "off") {
		dir, err := client.Download(ctx, id)
		if err == nil {
			return dir, nil
		}
		if clara.IsContext(err) {
			return "", err
		}
		why = err
	}
	return "", clara.Errorf(clara.NotFound, "find the base model %s: not %s, not in the hub cache %s (%w); get it with\n    %s\nor %s", id, nearby, client.Cache, why, id.Command(), way)
}

// above returns the folders above dir, nearest first; none if dir is empty.
func above(dir string) ([]string, error) {
	if dir == "" {
		return nil, nil
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, clara.Errorf(clara.Invalid, "find the base model: %w", err)
	}
	var places []string
	for parent := filepath.Dir(abs); ; parent = filepath.Dir(parent) {
		places = append(places, parent)
		if parent == filepath.Dir(parent) {
			return places, nil
		}
	}
}

// isModel reports whether path can be opened as a base model.
func isModel(path string) bool {
	info, err := os.Stat(path)
	if err != nil {
		return false
	}
	if !info.IsDir() {
		return strings.EqualFold(filepath.Ext(path), ".gguf")
	}
	if _, err := os.Stat(filepath.Join(path, "config.json")); err == nil {
		return true
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if strings.EqualFold(filepath.Ext(e.Name()), ".gguf") {
			return true
		}
	}
	return false
}
