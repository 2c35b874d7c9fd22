package asktest

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/infer"
	"github.com/clara-suite/clara/libs/infer/models"
	"github.com/clara-suite/clara/libs/modelpkg"
	"github.com/clara-suite/clara/libs/rpc"
	"github.com/clara-suite/clara/libs/testkit/servicetest"
	"github.com/clara-suite/clara/libs/testkit/tinymodel"
	compressorv1 "github.com/clara-suite/clara/proto/gen/clara/compressor/v1"
	generatorv1 "github.com/clara-suite/clara/proto/gen/clara/generator/v1"
)

// The benchmarks run on the example model, or the one that CLARA_BENCH_MODEL names (a Hugging Face folder or a GGUF
// file), with random adapters: 16 memory tokens for documents of 256.
type bench struct {
	*servicetest.Env
	lease models.Lease
	rng   *rand.Rand
}

func startBench(b *testing.B, o infer.Options) *bench {
	b.Helper()
	base := os.Getenv("CLARA_BENCH_MODEL")
	if base == "" {
		cache := os.Getenv("CLARA_CACHE")
		if cache == "" {
			dir, err := os.UserCacheDir()
			require.NoError(b, err)
			cache = filepath.Join(dir, "clara")
		}
		base = filepath.Join(cache, "models", "smollm2-135m", "SmolLM2-135M-Instruct.Q4_1.gguf")
		require.FileExists(b, base, "set CLARA_BENCH_MODEL to a Hugging Face folder or a GGUF file")
	}
	e := servicetest.New(b, o, rpc.Config{Listen: "127.0.0.1:0"})
	ck := filepath.Join(b.TempDir(), "clara")
	tinymodel.CheckpointOf(b, ck, base, 256, 16, 16, 1)
	e.ImportFrom("bench", modelpkg.ImportOptions{Base: base, Checkpoint: ck})
	e.Registry.Activate("bench")
	mount(b, e)
	lease, err := models.Models{Host: e.Host, Registry: e.Models}.Acquire(b.Context(), "models/bench")
	require.NoError(b, err)
	b.Cleanup(lease.Release)
	return &bench{e, lease, rand.New(rand.NewPCG(1, 1))}
}

// passage is a text of 256 tokens, another at every call.
func (x *bench) passage() string {
	words := []string{"valve", "pump", "hall", "open", "close", "before", "after", "report", "water", "line", "north", "station", "the", "is", "and", "of"}
	var text strings.Builder
	for n := 0; n < 256; n++ {
		fmt.Fprintf(&text, "%s ", words[x.rng.IntN(len(words))])
	}
	ids := x.lease.Tokenizer().Encode(text.String())
	return x.lease.Tokenizer().Decode(ids[:min(len(ids), 256)], true)
}

func (x *bench) passages(n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = x.passage()
	}
	return list
}

func (x *bench) memories(b *testing.B, n int) []*compressorv1.Memory {
	out, err := x.lease.CompressTexts(b.Context(), x.passages(n))
	require.NoError(b, err)
	list := make([]*compressorv1.Memory, n)
	for i, m := range out {
		list[i] = models.ToProto(m)
	}
	return list
}

func quantile(list []time.Duration, q float64) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[min(int(q*float64(len(list))), len(list)-1)]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// BenchmarkCompressRPC compresses the same passages by RPC and by the bare engine, in turns, each first in every other round:
// on a machine that others use, the second of two equal calls can be a tenth faster or slower. It also reports what share of an
// RPC the model ran.
func BenchmarkCompressRPC(b *testing.B) {
	x := startBench(b, infer.Options{})
	texts := x.passages(7) // one batch
	ids := make([][]int32, len(texts))
	for i, t := range texts {
		ids[i] = x.lease.Prompts().Encoder(t, x.lease.Manifest().DocMaxLength)
	}
	timed := func(call func() error) (took, busy time.Duration) {
		ran, start := x.lease.Busy(), time.Now()
		require.NoError(b, call())
		return time.Since(start), x.lease.Busy() - ran
	}
	var bare, whole, model []time.Duration
	engine := func() {
		took, _ := timed(func() error {
			_, err := x.lease.Encode(b.Context(), infer.Texts{Role: infer.Encoder, IDs: ids})
			return err
		})
		bare = append(bare, took)
	}
	rpc := func() {
		took, busy := timed(func() error {
			_, err := x.Compressor.Compress(b.Context(), &compressorv1.CompressRequest{Texts: texts})
			return err
		})
		whole, model = append(whole, took), append(model, busy)
	}
	engine()
	rpc()
	bare, whole, model = nil, nil, nil
	for i := range max(b.N, 4) {
		order := []func(){engine, rpc}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, call := range order {
			call()
		}
	}
	rate := func(list []time.Duration) float64 { return float64(len(texts)) / quantile(list, 0.5).Seconds() }
	b.ReportMetric(rate(whole), "docs/s-RPC")
	b.ReportMetric(rate(bare), "docs/s-engine")
	b.ReportMetric(100*rate(whole)/rate(bare), "%engine")
	b.ReportMetric(100*quantile(model, 0.5).Seconds()/quantile(whole, 0.5).Seconds(), "%model")
}

// BenchmarkOverhead streams answers of 16 tokens one after the other and reports what each took beyond the
// time in which the model ran: RPC, tokenizer, prompt, sampling, streaming.
func BenchmarkOverhead(b *testing.B) {
	x := startBench(b, infer.Options{})
	var over []time.Duration
	tokens := 0
	for i := range max(b.N, 100) + 5 {
		busy, start := x.lease.Busy(), time.Now()
		a, err := ask(b.Context(), x.Env, &generatorv1.AnswerRequest{Context: none, Model: "models/bench", Question: fmt.Sprintf("What is valve %d for?", i), MaxTokens: 16})
		took := time.Since(start)
		require.NoError(b, err)
		if i >= 5 {
			over = append(over, took-(x.lease.Busy()-busy))
			tokens += int(a.done.Timings.OutputTokens)
		}
	}
	b.ReportMetric(ms(quantile(over, 0.5)), "ms-median")
	b.ReportMetric(ms(quantile(over, 0.99)), "ms-p99")
	b.ReportMetric(float64(tokens)/float64(len(over)), "tokens")
}

// BenchmarkTTFT is the time to the first token from memories, and from the same passages as text. No two prompts
// share more than the instructions.
func BenchmarkTTFT(b *testing.B) {
	x := startBench(b, infer.Options{Context: 8192, Streams: 1})
	for _, k := range []int{5, 20} {
		b.Run(fmt.Sprintf("k=%d", k), func(b *testing.B) {
			var fromMemory, fromText []time.Duration
			for i := range max(b.N, 3) + 1 {
				passages := x.passages(k)
				out, err := x.lease.CompressTexts(b.Context(), passages)
				require.NoError(b, err)
				item := &generatorv1.GenerateRequest_Item{Question: "Which valve is closed first?"}
				for _, m := range out {
					item.Memories = append(item.Memories, models.ToProto(m))
				}
				first := func(c generatorv1.Context, item *generatorv1.GenerateRequest_Item) time.Duration {
					start := time.Now()
					_, err := x.Generator.Generate(b.Context(), &generatorv1.GenerateRequest{Model: "models/bench", Context: c, MaxTokens: 1, Items: []*generatorv1.GenerateRequest_Item{item}})
					require.NoError(b, err)
					return time.Since(start)
				}
				m := first(memory, item)
				t := first(text, &generatorv1.GenerateRequest_Item{Question: item.Question, Passages: passages})
				if i > 0 {
					fromMemory, fromText = append(fromMemory, m), append(fromText, t)
				}
			}
			b.ReportMetric(ms(quantile(fromMemory, 0.5)), "ms-memory")
			b.ReportMetric(ms(quantile(fromText, 0.5)), "ms-text")
			b.ReportMetric(quantile(fromText, 0.5).Seconds()/quantile(fromMemory, 0.5).Seconds(), "x-faster")
		})
	}
}

// BenchmarkLoad lets 200 clients ask for twice as many answers as the machine makes, for CLARA_BENCH_LOAD (5m): answers of
// up to 48 tokens from five memories. No call may fail but with resource_exhausted. Calls of the first ten
// seconds, in which the load builds up, are not counted.
func BenchmarkLoad(b *testing.B) {
	const clients = 200
	duration, err := time.ParseDuration(cmp.Or(os.Getenv("CLARA_BENCH_LOAD"), "5m"))
	require.NoError(b, err)
	settle := min(duration/5, 10*time.Second)
	x := startBench(b, infer.Options{})
	memories := x.memories(b, 20)
	call := func(ctx context.Context, r *rand.Rand) (time.Duration, error) {
		item := &generatorv1.GenerateRequest_Item{Question: fmt.Sprintf("What is valve %d for, and who closes it?", r.IntN(1000))}
		for range 5 {
			item.Memories = append(item.Memories, memories[r.IntN(len(memories))])
		}
		start := time.Now()
		_, err := x.Generator.Generate(ctx, &generatorv1.GenerateRequest{Model: "models/bench", Context: memory, MaxTokens: 48, Items: []*generatorv1.GenerateRequest_Item{item}})
		return time.Since(start), err
	}

	var mu sync.Mutex
	var alone, admitted []time.Duration
	r := rand.New(rand.NewPCG(3, 3))
	for i := range 33 {
		took, err := call(b.Context(), r)
		require.NoError(b, err)
		if i >= 3 {
			alone = append(alone, took)
		}
	}
	// What the machine can do: as many at once as it takes, each followed by the next.
	window := min(duration/5, 20*time.Second)
	ctx, cancel := context.WithTimeout(b.Context(), window)
	done := 0
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(4, uint64(i)))
			for ctx.Err() == nil {
				_, err := call(ctx, r)
				mu.Lock()
				if err == nil {
					done++
				}
				mu.Unlock()
				if err != nil && !models.Wait(ctx, err) {
					return
				}
			}
		})
	}
	wg.Wait()
	cancel()
	capacity := float64(done) / window.Seconds()
	require.Positive(b, capacity)

	errors := map[clara.Kind]int{clara.Busy: 0} // how many calls ended in each
	before := resident()
	most := before
	ctx, cancel = context.WithTimeout(b.Context(), duration)
	defer cancel()
	begin := time.Now()
	for i := range clients {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(5, uint64(i)))
			for {
				pause := time.NewTimer(time.Duration(r.ExpFloat64() * clients / (2 * capacity) * float64(time.Second)))
				select {
				case <-ctx.Done():
					pause.Stop()
					return
				case <-pause.C:
				}
				started := time.Since(begin)
				took, err := call(b.Context(), r) // what was begun is ended
				mu.Lock()
				switch {
				case err == nil && started > settle:
					admitted = append(admitted, took)
				case err != nil:
					kind := clara.KindOf(err)
					if errors[kind]++; kind != clara.Busy && errors[kind] <= 3 {
						b.Errorf("a call failed: %v", err)
					}
				}
				most = max(most, resident())
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.NotEmpty(b, admitted)
	b.ReportMetric(capacity, "calls/s-can")
	b.ReportMetric(float64(len(admitted))/(duration-settle).Seconds(), "calls/s-admitted")
	failed := 0
	for kind, n := range errors {
		if kind != clara.Busy {
			failed += n
		}
		b.ReportMetric(float64(n), "errors-"+strings.ReplaceAll(kind.String(), " ", "-"))
	}
	b.ReportMetric(float64(failed), "failed")
	b.ReportMetric(ms(quantile(alone, 0.5)), "ms-alone-median")
	b.ReportMetric(ms(quantile(alone, 0.99)), "ms-alone-p99")
	b.ReportMetric(ms(quantile(admitted, 0.5)), "ms-median")
	b.ReportMetric(ms(quantile(admitted, 0.99)), "ms-p99")
	b.ReportMetric(quantile(admitted, 0.99).Seconds()/quantile(alone, 0.99).Seconds(), "x-alone-p99")
	b.ReportMetric(quantile(admitted, 0.99).Seconds()/quantile(alone, 0.5).Seconds(), "x-alone-median")
	b.ReportMetric(before, "MB-before")
	b.ReportMetric(most, "MB-most")
}

// resident is the process's memory in MB, 0 where it cannot be read.
func resident() float64 {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		var kb float64
		if n, _ := fmt.Sscanf(line, "VmRSS: %f kB", &kb); n == 1 {
			return kb / 1024
		}
	}
	return 0
}
