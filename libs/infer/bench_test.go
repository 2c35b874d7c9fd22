package infer_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/ort"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/onnx/decoder"
	"github.com/clara-suite/clara/libs/onnx/graph"
	"github.com/clara-suite/clara/libs/testkit/roofline"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
)

// The benchmarks run on the model that CLARA_BENCH_MODEL names (a Hugging Face folder or a GGUF file; unset: the
// example model in the cache; "random": a model of that size) with random adapters where they need some.
// -benchtime 3x is enough. CLARA_BENCH_THREADS sets the threads, CLARA_BENCH_PRECISION
// the precision (as of clara models import; unset: all=fp32), CLARA_BENCH_PLAIN the runtime's operators alone. CLARA_BENCH_CPU counts seconds
// of the processor in place of the clock's, which with one thread is the better measure on a machine that others use.
func benchBase(b *testing.B) string {
	if os.Getenv("CLARA_BENCH_MODEL") == "random" {
		dir := filepath.Join(b.TempDir(), "base")
		tinymodel.Base(b, dir, tinymodel.Default().With(tinymodel.Config{
			"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
			"head_dim": 64, "vocab_size": 49152, "max_position_embeddings": 8192,
		}), 1)
		return dir
	}
	if p := os.Getenv("CLARA_BENCH_MODEL"); p != "" {
		return p
	}
	base := exampleBase(b)
	require.FileExists(b, base, "set CLARA_BENCH_MODEL to a Hugging Face folder or a GGUF file")
	return base
}

// exampleBase is where make deps puts the example base model.
func exampleBase(t testing.TB) string {
	cache := os.Getenv("CLARA_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir()
		require.NoError(t, err)
		cache = filepath.Join(dir, "clara")
	}
	return filepath.Join(cache, "models", "smollm2-135m", "SmolLM2-135M-Instruct.Q4_1.gguf")
}

// benchPackage imports the model once a process, with 16 memory tokens a document of 256.
func benchPackage(b *testing.B, adapters bool) string {
	base := benchBase(b)
	dir := b.TempDir()
	precision, err := modelpkg.ParsePrecisions(cmp.Or(os.Getenv("CLARA_BENCH_PRECISION"), "all=fp32"))
	require.NoError(b, err)
	o := modelpkg.ImportOptions{Base: base, Precision: precision}
	if adapters {
		o.Checkpoint = filepath.Join(dir, "clara")
		tinymodel.CheckpointOf(b, o.Checkpoint, base, 256, 16, 16, 1)
	}
	_, err = modelpkg.Import(context.Background(), filepath.Join(dir, "package"), o)
	require.NoError(b, err)
	return filepath.Join(dir, "package")
}

func benchRuntime(b *testing.B) ort.Options {
	n, err := strconv.Atoi(cmp.Or(os.Getenv("CLARA_BENCH_THREADS"), "0"))
	require.NoError(b, err)
	return ort.Options{Threads: n, Plain: os.Getenv("CLARA_BENCH_PLAIN") != ""}
}

// clock returns seconds, of which only differences mean something.
func clock(b *testing.B) float64 {
	if os.Getenv("CLARA_BENCH_CPU") == "" {
		return time.Since(begun).Seconds()
	}
	raw, err := os.ReadFile("/proc/self/stat")
	require.NoError(b, err, "processor time is read on Linux only")
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	user, err := strconv.ParseFloat(fields[11], 64)
	require.NoError(b, err)
	system, err := strconv.ParseFloat(fields[12], 64)
	require.NoError(b, err)
	return (user + system) / 100
}

var begun = time.Now()

// peak measures the rate of float32 matrix products in FLOP/s: the same runtime, one large product, the
// median of many, so that what else runs on the machine weighs on it as on what is compared with it.
func peak(b *testing.B) float64 {
	const M, K, N = 2048, 576, 1536
	g := graph.New("sgemm")
	g.Output("y", g.MatMul(g.Input("x", graph.Float32, graph.Fixed(M), graph.Fixed(K)), g.Floats("w", []int64{K, N}, make([]float32, K*N))))
	var buf bytes.Buffer
	_, err := g.WriteTo(&buf)
	require.NoError(b, err)
	s, err := ort.OpenBytes(buf.Bytes(), benchRuntime(b))
	require.NoError(b, err)
	defer s.Close()
	x, err := ort.NewValue(ort.Of(make([]float32, M*K), M, K))
	require.NoError(b, err)
	defer x.Close()
	y, err := ort.NewValue(ort.Of(make([]float32, M*N), M, N))
	require.NoError(b, err)
	defer y.Close()
	bind, err := s.Bind()
	require.NoError(b, err)
	defer bind.Close()
	require.NoError(b, bind.In("x", x))
	require.NoError(b, bind.Out("y", y))
	rates := make([]float64, 40)
	for i := range rates {
		start := time.Now()
		require.NoError(b, bind.Run())
		rates[i] = 2 * M * K * N / time.Since(start).Seconds()
	}
	slices.Sort(rates)
	return rates[len(rates)/2]
}

// BenchmarkCompress compresses documents of 240 to 256 tokens and reports documents/s, tokens/s and
// the share of the machine's SGEMM rate and of its multiply-add peak that they reach, adapters and attention included.
func BenchmarkCompress(b *testing.B) {
	e := open(b, benchPackage(b, true), infer.Options{Runtime: benchRuntime(b)})
	r := rand.New(rand.NewPCG(1, 1))
	m := e.Manifest()
	ids := make([][]int32, 16)
	tokens := 0
	for i := range ids {
		ids[i] = words(r, 240+r.IntN(17)+3+m.M)
		tokens += len(ids[i])
	}
	_, err := e.Compress(b.Context(), infer.Encoder, ids[:2])
	require.NoError(b, err)
	flops := 0.0
	for _, l := range m.Arch.Linears() {
		flops += 2 * float64(l.In) * float64(l.Out) * float64(m.Arch.Layers)
	}
	threads := cmp.Or(benchRuntime(b).Threads, runtime.GOMAXPROCS(0))
	attention := 0.0
	top, fma := peak(b), roofline.FMA(threads)
	start := clock(b)
	for b.Loop() {
		_, err := e.Compress(b.Context(), infer.Encoder, ids)
		require.NoError(b, err)
	}
	s := (clock(b) - start) / float64(b.N)
	top, fma = (top+peak(b))/2, (fma+roofline.FMA(threads))/2
	for _, x := range ids { // scores and sums over the tokens before each
		attention += 2 * float64(m.Arch.Layers*m.Arch.Heads*m.Arch.HeadDim) * float64(len(x)) * float64(len(x))
	}
	for _, slot := range decoder.Adapters(m.Arch) {
		flops += 2 * 16 * float64(len(slot.Parts)) * float64(slot.In)
		for _, part := range slot.Parts {
			flops += 2 * 16 * float64(part.Out)
		}
	}
	flops += attention / float64(tokens)
	b.ReportMetric(float64(len(ids))/s, "docs/s")
	b.ReportMetric(float64(tokens)/s, "tokens/s")
	if os.Getenv("CLARA_BENCH_CPU") == "" { // those rates are of the clock
		b.ReportMetric(flops*float64(tokens)/s/1e9, "GFLOP/s")
		b.ReportMetric(top/1e9, "SGEMM-GFLOP/s")
		b.ReportMetric(100*flops*float64(tokens)/s/top, "%SGEMM")
		b.ReportMetric(fma/1e9, "FMA-GFLOP/s")
		b.ReportMetric(100*flops*float64(tokens)/s/fma, "%FMA")
	}
	reportMemory(b)
}

// BenchmarkGenerate answers prompts of 256 tokens with 64 tokens, several at once. The rate of decoding is that of the
// steps in which all take part; "in all" counts the prompts too, which run whole. "half" is every other stream with the adapter.
func BenchmarkGenerate(b *testing.B) {
	for _, c := range []struct {
		adapter string
		every   int // so many streams has one the adapter; 0: none
		streams []int
	}{{"false", 0, []int{1, 8}}, {"true", 1, []int{1, 8}}, {"half", 2, []int{8}}} {
		b.Run("adapter="+c.adapter, func(b *testing.B) {
			dir := benchPackage(b, c.every > 0)
			for _, streams := range c.streams {
				b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
					e := open(b, dir, infer.Options{Context: 512, Slowdown: 1e9, Stall: time.Minute, Runtime: benchRuntime(b)})
					r := rand.New(rand.NewPCG(1, 1))
					var prefill time.Duration
					var all float64
					var rates []float64
					for b.Loop() {
						var wg sync.WaitGroup
						times := make([][]float64, streams) // of each token
						stats := make([]infer.Stats, streams)
						start := clock(b)
						for i := range streams {
							q := infer.Request{Prompt: infer.Prompt{IDs: words(r, 256)}, MaxTokens: 64, StopIDs: []int32{}, Adapter: c.every > 0 && i%c.every == 0}
							wg.Go(func() {
								var err error
								if stats[i], err = e.Generate(b.Context(), q, func(infer.Token) error {
									times[i] = append(times[i], clock(b))
									return nil
								}); err != nil {
									b.Error(err)
								}
							})
						}
						wg.Wait()
						all += clock(b) - start
						from, to := times[0][0], times[0][len(times[0])-1] // all answer
						for i, t := range times {
							prefill += stats[i].Prefill
							from, to = max(from, t[0]), min(to, t[len(t)-1])
						}
						n := 0
						for _, t := range slices.Concat(times...) {
							if t > from && t <= to {
								n++
							}
						}
						rates = append(rates, float64(n)/(to-from))
					}
					slices.Sort(rates)
					b.ReportMetric(float64(256*streams*b.N)/prefill.Seconds(), "prefill-tokens/s")
					b.ReportMetric(rates[len(rates)/2], "decode-tokens/s")
					b.ReportMetric(float64(64*streams*b.N)/all, "tokens/s-in-all")
					reportMemory(b)
				})
			}
		})
	}
}

func reportMemory(b *testing.B) {
	runtime.GC()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return // not Linux
	}
	for line := range strings.Lines(string(raw)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "RssAnon: %f kB", &kb); n == 1 {
			b.ReportMetric(kb/1024, "MB-anon")
		}
	}
}
