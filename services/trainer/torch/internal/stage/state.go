package stage

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/clara-suite/clara/libs/arch"
	"github.com/clara-suite/clara/libs/checkpoint"
	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/safetensors"
	views "github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/tensorboard"
	"github.com/clara-suite/clara/libs/trainplan"
	"github.com/clara-suite/clara/services/trainer/torch/internal/model"
	"github.com/clara-suite/clara/services/trainer/torch/internal/torchx"
)

// Files of a run's folder. A checkpoint is a folder checkpoints/step-NNNNNNNN with state.json and state.safetensors, to go on
// from, and beside them the reference's layout, to use.
const (
	checkpointsDir = "checkpoints"
	stateFile      = "state.json"
	tensorsFile    = "state.safetensors"
	metricsFile    = "metrics.jsonl"
	lockFile       = "lock"
	boardDir       = "tensorboard"
)

// state is state.json. What a resumed run must have in common with the one that wrote it is here in full.
type state struct {
	Format   int            `json:"format"`
	Step     int            `json:"step"`
	Steps    int            `json:"steps"`
	Samples  int64          `json:"samples"`
	DataHash string         `json:"data_hash"`
	Plan     trainplan.Plan `json:"plan"`
}

// lock keeps a second run out of a folder, until the file is closed or the process ends.
func lock(runDir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(runDir, lockFile), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, clara.Errorf(clara.Unavailable, "lock the run's folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, clara.Errorf(clara.Conflict, "another run writes to %s: stop it, or give this one a ckpt_path of its own", runDir)
	}
	return f, nil
}

// Checkpoints lists the complete checkpoints of a run's folder, oldest first.
func Checkpoints(runDir string) []string {
	var out []string
	entries, _ := os.ReadDir(filepath.Join(runDir, checkpointsDir))
	for _, e := range entries {
		path := filepath.Join(runDir, checkpointsDir, e.Name())
		if _, err := os.Stat(filepath.Join(path, stateFile)); err == nil && strings.HasPrefix(e.Name(), "step-") {
			out = append(out, path)
		}
	}
	slices.Sort(out)
	return out
}

// save writes a checkpoint and removes the oldest beyond max_ckpt_num. It is complete or not there at all.
func (r *Run) save() (string, error) {
	r.clock.to("save")
	defer r.clock.to("other")
	path := filepath.Join(r.plan.RunDir, checkpointsDir, fmt.Sprintf("step-%08d", r.step))
	s, done := torchx.Open()
	defer done()
	first, second, err := r.opt.moments(s)
	if err != nil {
		return "", fmt.Errorf("save step %d: %w", r.step, err)
	}
	if r.rank() == 0 {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", clara.Errorf(clara.Unavailable, "save step %d: %w", r.step, err)
		}
		err := checkpoint.SaveDir(path, func(dir string) error {
			if err := r.writeReference(dir); err != nil {
				return err
			}
			return r.writeState(dir, first, second)
		})
		if err != nil {
			return "", fmt.Errorf("save step %d: %w", r.step, err)
		}
		all := Checkpoints(r.plan.RunDir)
		for _, old := range all[:max(0, len(all)-r.plan.KeepLast)] {
			if err := os.RemoveAll(old); err != nil {
				r.env.Log.Warn("cannot remove an old checkpoint", "path", old, "err", err)
			}
		}
		r.emit(trainplan.Event{Kind: trainplan.Saved, Path: path})
	}
	return path, nil
}

func (r *Run) writeState(dir string, first, second []tensor) error {
	var all []views.View
	for i, name := range r.names {
		all = append(all, view("param/"+name, r.params[i]), view("first/"+name, first[i]), view("second/"+name, second[i]))
	}
	raw, err := json.MarshalIndent(state{Format: 1, Step: r.step, Steps: r.steps, Samples: r.samples, DataHash: r.data.Hash, Plan: r.plan}, "", "  ")
	if err != nil {
		return err
	}
	if err := safetensors.WriteFile(filepath.Join(dir, tensorsFile), map[string]string{"step": strconv.Itoa(r.step)}, all); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, stateFile), append(raw, '\n'), 0o644)
}

func view(name string, t tensor) views.View {
	in := t.Info()
	v := views.View{Name: name, Data: t.Bytes()}
	for _, d := range in.Shape {
		v.Shape = append(v.Shape, int(d))
	}
	switch in.DType {
	case torchx.BFloat16:
		v.DType = views.BF16
	case torchx.Float16:
		v.DType = views.F16
	default:
		v.DType = views.F32
	}
	return v
}

// writeReference writes the checkpoint in the reference's layout (spec clara-model §7).
func (r *Run) writeReference(dir string) error {
	c := checkpoint.Checkpoint{Config: r.Settings, Adapters: map[string]checkpoint.Adapter{}}
	c.Config.TrainingStage, c.Config.GenerationTopK = r.plan.Stage, r.plan.TopK
	c.Config.DecoderModelName = r.BasePath
	if abs, err := filepath.Abs(r.BasePath); err == nil {
		c.Config.DecoderModelName = abs
	}
	for _, a := range []*model.Adapter{r.Encoder, r.Decoder, r.Reasoner} {
		// Before stage 3 the reasoner is a copy of the encoder, which a checkpoint need not hold.
		if a == nil || a == r.Reasoner && (r.plan.Stage == trainplan.Stage1 || r.plan.Stage == trainplan.Stage12) {
			continue
		}
		out := checkpoint.Adapter{Name: a.Name, Rank: a.Rank, Tensors: map[string]views.View{}}
		for i, name := range a.Names {
			out.Tensors[name] = view(name, a.Params[i])
		}
		c.Adapters[a.Name] = out
	}
	embedding, head := r.Tables()
	c.Embedding = view(arch.Embedding, embedding)
	if head != nil {
		h := view(arch.Head, head)
		c.Head = &h
	}
	if err := c.Write(dir, r.Arch); err != nil {
		return err
	}
	if info, err := os.Stat(r.BasePath); err == nil && info.IsDir() {
		return checkpoint.CopyTokenizer(r.BasePath, dir)
	}
	return nil
}

// export writes the finished checkpoint to save_path.
func (r *Run) export() error {
	if r.rank() != 0 {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(r.plan.SavePath), 0o755); err != nil {
		return clara.Errorf(clara.Unavailable, "write the finished checkpoint: %w", err)
	}
	if err := checkpoint.SaveDir(r.plan.SavePath, r.writeReference); err != nil {
		return fmt.Errorf("write the finished checkpoint: %w", err)
	}
	return nil
}

// saved is a checkpoint that a run goes on from.
type saved struct {
	path string
	state
}

// newest is the newest checkpoint of the run's folder, nil if there is none; one of another run is refused.
func newest(p trainplan.Plan, dataHash string) (*saved, error) {
	all := Checkpoints(p.RunDir)
	if len(all) == 0 {
		return nil, nil
	}
	s := saved{path: all[len(all)-1]}
	raw, err := os.ReadFile(filepath.Join(s.path, stateFile))
	if err != nil {
		return nil, clara.Errorf(clara.Unavailable, "resume: %w", err)
	}
	if err := json.Unmarshal(raw, &s.state); err != nil {
		return nil, clara.Errorf(clara.Corrupt, "resume from %s: %w", s.path, err)
	}
	return &s, fits(p, dataHash, s.state, s.path)
}

// resume goes on from the checkpoint that was found.
func (r *Run) resume() error {
	if r.from == nil {
		return nil
	}
	newest, st := r.from.path, r.from.state
	f, err := safetensors.Open(filepath.Join(newest, tensorsFile))
	if err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	defer f.Close()
	err = r.opt.each(func(i int, param, first, second tensor) error {
		for prefix, into := range map[string]tensor{"param/": param, "first/": first, "second/": second} {
			if into == nil {
				continue
			}
			v, err := f.Tensor(prefix + r.names[i])
			if err != nil {
				return fmt.Errorf("resume: %w", err)
			}
			if want := into.Len() * 4; int64(len(v.Data)) != want || v.DType != views.F32 {
				return clara.Errorf(clara.Corrupt, "resume from %s: %s is %s of %d bytes, want %d", newest, v.Name, v.DType, len(v.Data), want)
			}
			s, done := torchx.Open()
			into.Copy(s.FromBytes(v.Data, torchx.Float32, r.Device, into.Shape()...))
			done()
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.step, r.samples, r.opt.opt.Steps = st.Step, st.Samples, int64(st.Step)
	r.SyncMemory()
	return nil
}

// fits refuses to go on with another data set or with settings that would change what the steps do.
func fits(p trainplan.Plan, dataHash string, st state, path string) error {
	if st.Format != 1 {
		return clara.Errorf(clara.Unsupported, "resume from %s: format %d of a newer version", path, st.Format)
	}
	if st.DataHash != dataHash {
		return clara.Errorf(clara.Invalid, "resume from %s: the training data, or what it is cut to, has changed since; go back to it, or start anew in another ckpt_path", path)
	}
	a, b := comparable(st.Plan), comparable(p)
	for _, k := range slices.Sorted(mapKeys(a)) {
		if a[k] != b[k] {
			return clara.Errorf(clara.Invalid, "resume from %s: %s was %s and is %s now: go back to it, or start anew in another ckpt_path", path, k, a[k], b[k])
		}
	}
	return nil
}

// comparable leaves out of a plan what may change from one start to the next.
func comparable(p trainplan.Plan) map[string]string {
	p.Name, p.SavePath, p.RunDir, p.Resume = "", "", "", false
	p.EvalData, p.EvalSteps, p.EvalGeneration, p.SaveSteps, p.KeepLast, p.LoggingSteps, p.TensorBoard = "", 0, false, 0, 0, 0, false
	p.Device, p.Threads, p.World, p.Interface, p.PeerTimeout, p.ZeroStage = "", 0, 0, "", 0, 0
	p.MicroBatchSize, p.Checkpointing, p.FlashAttention = 0, false, false
	p.Model, p.Checkpoint, p.Data = "", "", nil // the data's content is compared, paths may move
	raw, _ := json.Marshal(p)
	fields := map[string]json.RawMessage{}
	_ = json.Unmarshal(raw, &fields)
	out := map[string]string{}
	for k, v := range fields {
		out[k] = string(v)
	}
	return out
}

func mapKeys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// openMetrics opens metrics.jsonl to go on where the run does: lines of steps that are made again are dropped.
func (r *Run) openMetrics() error {
	if r.rank() != 0 {
		return nil
	}
	path := filepath.Join(r.plan.RunDir, metricsFile)
	var kept []byte
	if r.step > 0 {
		if f, err := os.Open(path); err == nil {
			lines := bufio.NewScanner(f)
			lines.Buffer(nil, 1<<20)
			for lines.Scan() {
				var m trainplan.Metrics
				if json.Unmarshal(lines.Bytes(), &m) == nil && m.Step <= r.step && m.Step > 0 {
					kept = append(append(kept, lines.Bytes()...), '\n')
				}
			}
			f.Close()
		}
	}
	if err := os.WriteFile(path+".new", kept, 0o644); err != nil {
		return clara.Errorf(clara.Unavailable, "write metrics: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return clara.Errorf(clara.Unavailable, "write metrics: %w", err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return clara.Errorf(clara.Unavailable, "write metrics: %w", err)
	}
	r.metrics = f
	if r.plan.TensorBoard {
		r.board, err = tensorboard.Create(filepath.Join(r.plan.RunDir, boardDir), int64(r.step))
	}
	return err
}

func (r *Run) record(m trainplan.Metrics) error {
	if r.metrics == nil {
		return nil
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := r.metrics.Write(append(raw, '\n')); err != nil {
		return clara.Errorf(clara.Unavailable, "write metrics: %w", err)
	}
	if r.board == nil {
		return nil
	}
	return r.board.Add(time.Now(), int64(m.Step), m.Scalars()...)
}

// memory is what the process holds now and held at most: of the device, or resident on the host.
func memory(d torchx.Device) (now, peak int64) {
	if d != torchx.CPU {
		return torchx.CUDAMemory(d)
	}
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0
	}
	for _, line := range strings.Split(string(raw), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "VmRSS:":
			now = n << 10
		case "VmHWM:":
			peak = n << 10
		}
	}
	return now, peak
}
