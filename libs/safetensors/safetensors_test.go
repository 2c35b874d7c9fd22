package safetensors_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/tensor"
)

func tensors() []tensor.View {
	return []tensor.View{
		{Name: "flag", DType: tensor.U8, Shape: tensor.Shape{3}, Data: []byte{1, 2, 3}},
		tensor.FromFloat32("b", tensor.Shape{2, 1}, []float32{1, 2}),
		tensor.FromFloat32("a", nil, []float32{7}),
		{Name: "empty", DType: tensor.F32, Shape: tensor.Shape{0, 4}, Data: []byte{}},
	}
}

func TestWriteAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), safetensors.SingleFile)
	require.NoError(t, safetensors.WriteFile(path, map[string]string{"format": "pt"}, tensors()))
	f, err := safetensors.Open(path)
	require.NoError(t, err)
	defer f.Close()
	assert.Equal(t, []string{"a", "b", "empty", "flag"}, f.Names())
	assert.Equal(t, map[string]string{"format": "pt"}, f.Metadata())
	v, err := f.Tensor("b")
	require.NoError(t, err)
	got, err := v.Float32()
	require.NoError(t, err)
	assert.Equal(t, []float32{1, 2}, got)
	assert.Equal(t, tensor.Shape{2, 1}, v.Shape)
	off, ok := f.Offset("b")
	require.True(t, ok)
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, v.Data, raw[off:off+8])
	assert.Zero(t, binary.LittleEndian.Uint64(raw)%8)
	_, err = f.Tensor("c")
	assert.Equal(t, clara.NotFound, clara.KindOf(err))

	var again, reversed bytes.Buffer
	require.NoError(t, safetensors.Encode(&again, map[string]string{"format": "pt"}, tensors()))
	r := tensors()
	r[0], r[2] = r[2], r[0]
	require.NoError(t, safetensors.Encode(&reversed, map[string]string{"format": "pt"}, r))
	assert.Equal(t, raw, again.Bytes())
	assert.Equal(t, raw, reversed.Bytes())
}

func TestWriterRefuses(t *testing.T) {
	two := []tensor.View{tensor.FromFloat32("a", nil, []float32{7}), tensor.FromFloat32("a", nil, []float32{7})}
	assert.Equal(t, clara.Invalid, clara.KindOf(safetensors.Encode(&bytes.Buffer{}, nil, two)))
	w, err := safetensors.NewWriter(&bytes.Buffer{}, nil, []safetensors.Entry{{"a", tensor.F32, tensor.Shape{1}}})
	require.NoError(t, err)
	assert.Equal(t, clara.Invalid, clara.KindOf(w.Close()))
	assert.Equal(t, clara.Invalid, clara.KindOf(w.Write(two[0])))
}

// file puts a header of the given text before n bytes.
func file(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

func TestHostileHeaders(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
		kind clara.Kind
		text string
	}{
		{"empty", nil, clara.Corrupt, "empty or truncated"},
		{"huge header", binary.LittleEndian.AppendUint64(nil, 1<<62), clara.Corrupt, "over the limit"},
		{"header beyond file", binary.LittleEndian.AppendUint64(nil, 100), clara.Corrupt, "truncated"},
		{"no object", file(`[1]`, 0), clara.Corrupt, "not a JSON object"},
		{"duplicate", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1), clara.Corrupt, "twice"},
		{"overlap", file(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}`, 3), clara.Corrupt, "overlap"},
		{"gap", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2), clara.Corrupt, "gap"},
		{"truncated data", file(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 3), clara.Corrupt, "truncated"},
		{"appended data", file(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 5), clara.Corrupt, "appended"},
		{"overflow", file(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0), clara.Corrupt, "does not fit"},
		{"negative", file(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[4,0]}}`, 4), clara.Corrupt, "does not fit"},
		{"offsets overflow", file(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[-9223372036854775808,9223372036854775807]}}`, 4), clara.Corrupt, "does not fit"},
		{"no shape", file(`{"a":{"dtype":"F32","data_offsets":[0,4]}}`, 4), clara.Corrupt, "lacks"},
		{"type", file(`{"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}}`, 4), clara.Unsupported, "F8_E4M3"},
		{"trailing", file(`{} {}`, 0), clara.Corrupt, "after its object"},
		{"cut", file(`{"a":{"dtype":"U8"`, 0), clara.Corrupt, "parse"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := safetensors.Parse("x", c.data)
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err))
			assert.ErrorContains(t, err, c.text)
		})
	}
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	_, err := safetensors.OpenFolder(dir)
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
	all := tensors()
	require.NoError(t, safetensors.WriteFile(filepath.Join(dir, "m-1.safetensors"), nil, all[:2]))
	require.NoError(t, safetensors.WriteFile(filepath.Join(dir, "m-2.safetensors"), nil, all[2:]))
	index := filepath.Join(dir, safetensors.IndexFile)
	require.NoError(t, os.WriteFile(index, []byte(`{"weight_map":{"flag":"m-1.safetensors","b":"m-1.safetensors","a":"m-2.safetensors"}}`), 0o600))
	s, err := safetensors.OpenFolder(dir)
	require.NoError(t, err)
	defer s.Close()
	assert.Equal(t, []string{"a", "b", "flag"}, s.Names())
	path, off, ok := s.Location("a")
	assert.True(t, ok)
	assert.Equal(t, filepath.Join(dir, "m-2.safetensors"), path)
	assert.Positive(t, off)
	_, err = s.Tensor("empty")
	assert.Equal(t, clara.NotFound, clara.KindOf(err))

	for _, c := range []struct{ name, index, text string }{
		{"escape", `{"weight_map":{"a":"../m-1.safetensors"}}`, "not a file of the folder"},
		{"missing tensor", `{"weight_map":{"zz":"m-1.safetensors"}}`, "zz"},
		{"missing shard", `{"weight_map":{"a":"m-3.safetensors"}}`, "m-3"},
		{"nothing", `{}`, "no shards"},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(index, []byte(c.index), 0o600))
			_, err := safetensors.OpenFolder(dir)
			assert.ErrorContains(t, err, c.text)
		})
	}
}

func FuzzParse(f *testing.F) {
	var b bytes.Buffer
	if err := safetensors.Encode(&b, map[string]string{"k": "v"}, tensors()); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(file(`{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 2))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := safetensors.Parse("fuzz", data)
		if err != nil {
			return
		}
		for _, name := range file.Names() {
			v, err := file.Tensor(name)
			if err != nil || v.Check() != nil {
				t.Fatalf("tensor %q of an accepted file is bad: %v", name, err)
			}
		}
	})
}

func ExampleEncode() {
	var b bytes.Buffer
	v := tensor.FromFloat32("w", tensor.Shape{1, 2}, []float32{1, 2})
	if err := safetensors.Encode(&b, nil, []tensor.View{v}); err != nil {
		return
	}
	f, err := safetensors.Parse("memory", b.Bytes())
	if err != nil {
		return
	}
	_ = f.Names()
}
