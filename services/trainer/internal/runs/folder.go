package runs

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/clara-suite/clara/libs/checkpoint"
	"github.com/clara-suite/clara/libs/clara"
	trainerv1 "github.com/clara-suite/clara/proto/gen/clara/trainer/v1"
)

// What a worker writes into a run's folder.
const (
	metricsFile    = "metrics.jsonl"
	checkpointsDir = "checkpoints"
	stateFile      = "state.json" // in a checkpoint that can be gone on from
	stepPrefix     = "step-"
)

// Metrics goes through the metrics of a stage's folder. One without any yields nothing; a last line that is just being
// written is left out.
func Metrics(runDir string) iter.Seq2[*trainerv1.Metrics, error] {
	return func(yield func(*trainerv1.Metrics, error) bool) {
		path := filepath.Join(runDir, metricsFile)
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			yield(nil, clara.Errorf(clara.Unavailable, "read metrics: %w", err))
			return
		}
		defer f.Close()
		in := bufio.NewReader(f)
		for n := 1; ; n++ {
			line, err := in.ReadBytes('\n')
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(nil, clara.Errorf(clara.Unavailable, "read metrics: %w", err))
				return
			}
			m := &trainerv1.Metrics{}
			if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(bytes.TrimSpace(line), m); err != nil {
				yield(nil, clara.Errorf(clara.Corrupt, "%s line %d: %w", path, n, err))
				return
			}
			if !yield(m, nil) {
				return
			}
		}
	}
}

// Checkpoints lists the whole checkpoints of a run, oldest first, each stage's finished one after those of its steps.
func Checkpoints(run *trainerv1.Run) ([]*trainerv1.Checkpoint, error) {
	var out []*trainerv1.Checkpoint
	for _, s := range run.Stages {
		dir := filepath.Join(s.RunDir, checkpointsDir)
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, clara.Errorf(clara.Unavailable, "list checkpoints: %w", err)
		}
		for _, e := range entries { // sorted; the numbers have one width
			step, err := strconv.ParseInt(strings.TrimPrefix(e.Name(), stepPrefix), 10, 64)
			if err != nil {
				continue
			}
			if c := folder(filepath.Join(dir, e.Name()), stateFile); c != nil {
				c.Stage, c.Step = s.Stage, step
				out = append(out, c)
			}
		}
		if s.State != trainerv1.Run_STATE_SUCCEEDED {
			continue // what lies at save_path is not this run's
		}
		if c := folder(s.SavePath, checkpoint.ConfigFile); c != nil {
			c.Stage, c.Step, c.Final = s.Stage, s.GetMetrics().GetStep(), true
			out = append(out, c)
		}
	}
	return out, nil
}

// folder describes a checkpoint, which is whole if it holds the file; nil if it does not.
func folder(path, whole string) *trainerv1.Checkpoint {
	info, err := os.Stat(filepath.Join(path, whole))
	if err != nil {
		return nil
	}
	c := &trainerv1.Checkpoint{Path: path, CreateTime: timestamppb.New(info.ModTime())}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			c.SizeBytes += info.Size()
		}
	}
	return c
}
