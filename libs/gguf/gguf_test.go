package gguf_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/gguf"
	"github.com/clara-suite/clara/libs/tensor"
)

func TestWitness(t *testing.T) {
	f, err := gguf.Open("testdata/witness.gguf")
	require.NoError(t, err)
	defer f.Close()
	raw, err := os.ReadFile("testdata/witness.json")
	require.NoError(t, err)
	var want map[string]struct {
		SHA256 string
		First  []float32
		Shape  tensor.Shape
	}
	require.NoError(t, json.Unmarshal(raw, &want))
	require.Len(t, f.Names(), len(want))
	whole, err := os.ReadFile("testdata/witness.gguf")
	require.NoError(t, err)
	for name, w := range want {
		t.Run(name, func(t *testing.T) {
			x, err := f.Tensor(name)
			require.NoError(t, err)
			assert.Equal(t, name, x.Type.String())
			assert.Equal(t, w.Shape, x.Shape)
			assert.Equal(t, x.Data, whole[x.Offset:x.Offset+int64(len(x.Data))])
			got, err := x.Float32()
			require.NoError(t, err)
			assert.Equal(t, w.First, got[:len(w.First)])
			var b []byte
			for _, v := range got {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
			}
			sum := sha256.Sum256(b)
			assert.Equal(t, w.SHA256, hex.EncodeToString(sum[:]))

			second, err := x.Rows(1, 2).Float32()
			require.NoError(t, err)
			assert.Equal(t, got[w.Shape[1]:2*w.Shape[1]], second)
			order := []int{1, 0}
			if w.Shape[0] == 3 {
				order = []int{1, 0, 2}
			}
			swapped, err := x.PermuteRows(order).Float32()
			require.NoError(t, err)
			assert.Equal(t, got[:w.Shape[1]], swapped[w.Shape[1]:2*w.Shape[1]])
		})
	}
}

func TestMetadata(t *testing.T) {
	f, err := gguf.Open("testdata/witness.gguf")
	require.NoError(t, err)
	defer f.Close()
	assert.Equal(t, "llama", f.String("general.architecture", ""))
	assert.Equal(t, 4000000000, f.Int("test.u32", 0))
	assert.Equal(t, -5, f.Int("test.i32", 0))
	assert.InDelta(t, 0.5, f.Float("test.f32", 0), 0)
	assert.True(t, f.Bool("test.bool", false))
	assert.Equal(t, "héllo", f.String("test.text", ""))
	assert.Equal(t, []int64{3, -1, 2}, f.Ints("test.ints"))
	assert.Equal(t, []float64{0.5, -2}, f.Floats("test.floats"))
	assert.Equal(t, 7, f.Int("none", 7))
	tok, err := f.Tokenizer()
	require.NoError(t, err)
	no := false
	assert.Equal(t, gguf.Tokenizer{
		Model: "gpt2", Pre: "smollm", Tokens: []string{"<s>", "a", "b", "ab"},
		Types:  []gguf.TokenType{gguf.TokenControl, gguf.TokenNormal, gguf.TokenNormal, gguf.TokenNormal},
		Merges: []string{"a b"}, BOS: 0, EOS: 0, EOT: -1, EOM: -1, Unknown: -1, Padding: -1, AddBOS: &no,
		ChatTemplate: "{{ messages[0]['content'] }}",
	}, tok)
	_, err = f.Tensor("none")
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}

// head is the beginning of a file: magic, version, counts.
func head(version uint32, tensors, pairs uint64) []byte {
	b := append([]byte("GGUF"), binary.LittleEndian.AppendUint32(nil, version)...)
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, tensors), pairs)
}

func text(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

// oneTensor is a file of one tensor and size bytes of data.
func oneTensor(dims []uint64, kind uint32, offset uint64, size int) []byte {
	b := text(head(3, 1, 0), "w")
	b = binary.LittleEndian.AppendUint32(b, uint32(len(dims)))
	for _, d := range dims {
		b = binary.LittleEndian.AppendUint64(b, d)
	}
	b = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(b, kind), offset)
	for len(b)%32 != 0 {
		b = append(b, 0)
	}
	return append(b, make([]byte, size)...)
}

func TestHostileFiles(t *testing.T) {
	array := func(kind uint32, n uint64) []byte {
		b := text(head(3, 0, 1), "k")
		b = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(b, 9), kind)
		return append(binary.LittleEndian.AppendUint64(b, n), make([]byte, 64)...)
	}
	for _, c := range []struct {
		name string
		data []byte
		kind clara.Kind
		text string
	}{
		{"empty", nil, clara.Corrupt, "truncated"},
		{"magic", []byte("GGML000000000000000000000"), clara.Corrupt, "not a GGUF"},
		{"version 1", head(1, 0, 0), clara.Unsupported, "version 1"},
		{"big endian", head(3<<24, 0, 0), clara.Unsupported, "big-endian"},
		{"counts", head(3, 1<<60, 0), clara.Corrupt, "do not fit"},
		{"pairs", head(3, 0, 1<<60), clara.Corrupt, "do not fit"},
		{"long array", array(4, 1<<61), clara.Corrupt, "cannot hold"},
		{"array of arrays", array(9, 1), clara.Unsupported, "array of arrays"},
		{"unknown type", array(77, 1), clara.Corrupt, "type 77"},
		{"dims", oneTensor(make([]uint64, 9), 0, 0, 0), clara.Corrupt, "dimensions"},
		{"overflow", oneTensor([]uint64{1 << 40, 1 << 40}, 0, 0, 0), clara.Corrupt, "impossible shape"},
		{"cut block", oneTensor([]uint64{33}, 2, 0, 64), clara.Corrupt, "impossible shape"},
		{"truncated", oneTensor([]uint64{32}, 0, 0, 127), clara.Corrupt, "truncated"},
		{"offset", oneTensor([]uint64{1}, 0, 1<<62, 32), clara.Corrupt, ""},
		{"unaligned", oneTensor([]uint64{1}, 0, 4, 32), clara.Corrupt, "aligned"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := gguf.Parse("x", c.data)
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err), err)
			assert.ErrorContains(t, err, c.text)
		})
	}
	f, err := gguf.Parse("x", oneTensor([]uint64{256}, 10, 0, 512))
	require.NoError(t, err)
	_, err = f.Tensor("w")
	assert.Equal(t, clara.Unsupported, clara.KindOf(err))
	_, err = f.Tokenizer()
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}

func FuzzParse(f *testing.F) {
	raw, err := os.ReadFile("testdata/witness.gguf")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(oneTensor([]uint64{32, 2}, 8, 0, 68))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := gguf.Parse("fuzz", bytes.Clone(data))
		if err != nil {
			return
		}
		file.Tokenizer()
		for _, name := range file.Names() {
			x, err := file.Tensor(name)
			if err != nil {
				continue
			}
			values, err := x.Float32()
			if n, ok := x.Shape.Elements(); err != nil || !ok || n != len(values) {
				t.Fatalf("tensor %q of an accepted file is bad: %v", name, err)
			}
		}
	})
}

func ExampleOpen() {
	f, err := gguf.Open("testdata/witness.gguf")
	if err != nil {
		return
	}
	defer f.Close()
	_ = f.String("general.architecture", "")
}
