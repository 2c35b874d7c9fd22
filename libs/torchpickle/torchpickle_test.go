package torchpickle_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/safetensors"
	"github.com/clara-suite/clara/libs/tensor"
	"github.com/clara-suite/clara/libs/testkit/partstest"
	"github.com/clara-suite/clara/libs/torchpickle"
)

func sample() *torchpickle.Dict {
	inner := torchpickle.NewDict()
	inner.Set("a.weight", tensor.FromFloat32("", tensor.Shape{2, 3}, []float32{1, 2, 3, 4, 5, 6}))
	inner.Set("b.weight", torchpickle.Parameter{View: tensor.View{DType: tensor.BF16, Shape: tensor.Shape{2}, Data: []byte{0x80, 0x3f, 0, 0x40}}})
	d := torchpickle.NewDict()
	d.Set("encoder_adapter", inner)
	d.Set("scalar", tensor.View{DType: tensor.I64, Shape: tensor.Shape{}, Data: binary.LittleEndian.AppendUint64(nil, 7)})
	d.Set("empty", tensor.View{DType: tensor.F16, Shape: tensor.Shape{0, 4}, Data: []byte{}})
	d.Set("name", "x")
	d.Set("step", int64(1)<<40)
	d.Set("small", int64(-3))
	d.Set("rate", 0.25)
	d.Set("on", true)
	d.Set("none", nil)
	return d
}

func encode(t testing.TB, d *torchpickle.Dict) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, torchpickle.Encode(&b, d))
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	raw := encode(t, sample())
	assert.Equal(t, raw, encode(t, sample()))
	d, err := torchpickle.Parse("x.pth", raw)
	require.NoError(t, err)
	assert.Equal(t, sample().Keys(), d.Keys())
	inner, ok := d.Dict("encoder_adapter")
	require.True(t, ok)
	a, ok := inner.Tensor("a.weight")
	require.True(t, ok)
	assert.Equal(t, "a.weight", a.Name)
	values, err := a.Float32()
	require.NoError(t, err)
	assert.Equal(t, []float32{1, 2, 3, 4, 5, 6}, values)
	b, ok := inner.Tensor("b.weight")
	require.True(t, ok)
	values, err = b.Float32()
	require.NoError(t, err)
	assert.Equal(t, tensor.BF16, b.DType)
	assert.Equal(t, []float32{1, 2}, values)
	s, ok := d.Tensor("scalar")
	require.True(t, ok)
	assert.Empty(t, s.Shape)
	for _, k := range []string{"name", "step", "small", "rate", "on", "none"} {
		assert.Equal(t, sample().Get(k), d.Get(k), k)
	}
	// Storages begin at multiples of 64, as torch writes them.
	z, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	require.NoError(t, err)
	for _, f := range z.File {
		at, err := f.DataOffset()
		require.NoError(t, err)
		assert.Zero(t, at%64, f.Name)
	}
	// A cycle must not hang the writer.
	loop := torchpickle.NewDict()
	loop.Set("self", loop)
	assert.Equal(t, clara.Invalid, clara.KindOf(torchpickle.Encode(&bytes.Buffer{}, loop)))
}

// archive is a zip of torch.save's shape around a pickle and storages.
func archive(t testing.TB, pickle string, storages map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	add := func(name string, data []byte) {
		w, err := z.CreateHeader(&zip.FileHeader{Name: "archive/" + name, Method: zip.Store})
		require.NoError(t, err)
		_, err = w.Write(data)
		require.NoError(t, err)
	}
	add("data.pkl", []byte(pickle))
	for name, data := range storages {
		add("data/"+name, data)
	}
	require.NoError(t, z.Close())
	return b.Bytes()
}

const (
	u8Storage = "((X\x07\x00\x00\x00storagectorch\nByteStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ" // 6 bytes under key 0
	rebuild   = "ctorch._utils\n_rebuild_tensor_v2\n"
	tail      = "\x89ccollections\nOrderedDict\n)RtR"
)

// dict wraps one value as {"w": value}.
func dict(value string) string { return "\x80\x02}X\x01\x00\x00\x00w" + value + "s." }

func TestStrides(t *testing.T) {
	bytes6 := map[string][]byte{"0": {0, 1, 2, 3, 4, 5}}
	for _, c := range []struct {
		name, args string // offset, size, stride
		shape      tensor.Shape
		want       []byte
	}{
		{"contiguous", "K\x00K\x02K\x03\x86K\x03K\x01\x86", tensor.Shape{2, 3}, []byte{0, 1, 2, 3, 4, 5}},
		{"transposed", "K\x00K\x03K\x02\x86K\x01K\x03\x86", tensor.Shape{3, 2}, []byte{0, 3, 1, 4, 2, 5}},
		{"offset", "K\x02K\x02\x85K\x03\x85", tensor.Shape{2}, []byte{2, 5}},
		{"expanded", "K\x05K\x02K\x02\x86K\x00K\x00\x86", tensor.Shape{2, 2}, []byte{5, 5, 5, 5}},
		{"scalar", "K\x04))", tensor.Shape{}, []byte{4}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := torchpickle.Parse("x", archive(t, dict(rebuild+u8Storage+c.args+tail), bytes6))
			require.NoError(t, err)
			v, ok := d.Tensor("w")
			require.True(t, ok)
			assert.Equal(t, c.shape, v.Shape)
			assert.Equal(t, c.want, v.Data)
		})
	}
}

func TestRefusals(t *testing.T) {
	bytes6 := map[string][]byte{"0": {0, 1, 2, 3, 4, 5}}
	tensorOf := func(args string) string { return dict(rebuild + u8Storage + args + tail) }
	for _, c := range []struct {
		name   string
		pickle string
		kind   clara.Kind
		text   string
	}{
		{"os.system", dict("cos\nsystem\nX\x02\x00\x00\x00ls\x85R"), clara.Unsupported, `"os.system"`},
		{"stack global", dict("\x8c\x08builtins\x8c\x04eval\x93"), clara.Unsupported, `"builtins.eval"`},
		{"storage called", dict("ctorch\nFloatStorage\n)R"), clara.Unsupported, `calls "torch.FloatStorage"`},
		{"ordered dict with arguments", dict("ccollections\nOrderedDict\n]\x85R"), clara.Unsupported, "OrderedDict"},
		{"inst", dict("(ios\nsystem\n"), clara.Unsupported, "0x69"},
		{"object", dict("(cos\nsystem\no"), clara.Unsupported, `"os.system"`},
		{"newobj", dict("ccollections\nOrderedDict\n)\x81"), clara.Unsupported, "0x81"},
		{"extension", dict("\x82\x01"), clara.Unsupported, "0x82"},
		{"protocol 0", "\x80\x00.", clara.Unsupported, "protocol 0"},
		{"state of a tensor", dict(rebuild + u8Storage + "K\x00K\x06\x85K\x01\x85" + tail + "}b"), clara.Unsupported, "state"},
		{"no stop", "\x80\x02}", clara.Corrupt, "ends"},
		{"empty stack", "\x80\x02.", clara.Corrupt, "empty stack"},
		{"mark as value", "\x80\x02(.", clara.Corrupt, "mark"},
		{"left behind", "\x80\x02}}.", clara.Corrupt, "behind"},
		{"memo", dict("h\x07"), clara.Corrupt, "memo 7"},
		{"long text", "\x80\x02X\xff\xff\xff\xff", clara.Corrupt, "text"},
		{"not a dictionary", "\x80\x02K\x01.", clara.Corrupt, "dictionary is expected"},
		{"missing storage", dict(rebuild + "((X\x07\x00\x00\x00storagectorch\nByteStorage\nX\x01\x00\x00\x009X\x03\x00\x00\x00cpuK\x06tQK\x00K\x06\x85K\x01\x85" + tail), clara.Corrupt, `"9" is missing`},
		{"beyond", tensorOf("K\x01K\x06\x85K\x01\x85"), clara.Corrupt, "reaches beyond"},
		{"stride beyond", tensorOf("K\x00K\x02\x85K\x06\x85"), clara.Corrupt, "reaches beyond"},
		{"negative stride", tensorOf("K\x00K\x02\x85J\xff\xff\xff\xff\x85"), clara.Corrupt, "stride"},
		{"overflow", tensorOf("K\x00\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f\x86K\x00K\x00\x86"), clara.Corrupt, "impossible shape"},
		{"expanded bomb", tensorOf("K\x00J\x00\x00\x00\x7f\x85K\x00\x85"), clara.Unsupported, "more bytes than the file justifies"},
		{"uncomparable storage tag", dict("))))(tQ"), clara.Corrupt, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := torchpickle.Parse("x.pth", archive(t, c.pickle, bytes6))
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err), err)
			assert.ErrorContains(t, err, c.text)
			assert.ErrorContains(t, err, "x.pth")
		})
	}
}

func TestBrokenArchives(t *testing.T) {
	good := encode(t, sample())
	var deflated bytes.Buffer
	z := zip.NewWriter(&deflated)
	w, err := z.Create("archive/data.pkl")
	require.NoError(t, err)
	_, err = w.Write(make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	for _, c := range []struct {
		name string
		data []byte
		kind clara.Kind
		text string
	}{
		{"empty", nil, clara.Corrupt, "empty"},
		{"legacy", []byte("\x80\x02\x8a\x0al\xfc\x9cF"), clara.Unsupported, "before 1.6"},
		{"text", []byte("hello"), clara.Corrupt, "not a zip"},
		{"truncated", good[:len(good)-40], clara.Corrupt, "truncated"},
		{"compressed", deflated.Bytes(), clara.Unsupported, "compressed"},
		{"no pickle", archive(t, "", nil)[:0:0], clara.Corrupt, "empty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := torchpickle.Parse("x.pth", c.data)
			require.Error(t, err)
			assert.Equal(t, c.kind, clara.KindOf(err))
			assert.ErrorContains(t, err, c.text)
		})
	}
	_, err = torchpickle.Load(filepath.Join(t.TempDir(), "none.pth"))
	assert.Equal(t, clara.NotFound, clara.KindOf(err))
}

func TestGoldenCheckpoints(t *testing.T) {
	root := partstest.Golden(t)
	files, err := filepath.Glob(filepath.Join(root, "*", "clara*", "*.pth"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		d, err := torchpickle.Load(file)
		require.NoError(t, err)
		assert.NotZero(t, d.Len())
		again, err := torchpickle.Parse("again", encode(t, d))
		require.NoError(t, err)
		assert.Equal(t, d.Keys(), again.Keys())
	}
	// The first rows of the table are the base's.
	layers, err := torchpickle.Load(filepath.Join(root, "mistral-cr4", "clara", "decoder_first_last_layers.pth"))
	require.NoError(t, err)
	table, ok := layers.Tensor("model.embed_tokens.weight")
	require.True(t, ok)
	base, err := safetensors.OpenFolder(filepath.Join(root, "mistral-cr4", "base"))
	require.NoError(t, err)
	defer base.Close()
	want, err := base.Tensor("model.embed_tokens.weight")
	require.NoError(t, err)
	assert.Equal(t, want.Data, table.Rows(0, want.Shape[0]).Data)
}

func FuzzParse(f *testing.F) {
	f.Add(encode(f, sample()))
	f.Add(archive(f, dict(rebuild+u8Storage+"K\x00K\x03K\x02\x86K\x01K\x03\x86"+tail), map[string][]byte{"0": {0, 1, 2, 3, 4, 5}}))
	f.Fuzz(func(t *testing.T, data []byte) { check(t, data) })
}

// FuzzPickle leaves the zip alone, so that the pickle machine is reached.
func FuzzPickle(f *testing.F) {
	f.Add([]byte(dict(rebuild + u8Storage + "K\x00K\x03K\x02\x86K\x01K\x03\x86" + tail)))
	f.Add([]byte(dict("(K\x01M\x02\x00J\x03\x00\x00\x00\x8a\x01\x04G?\xf0\x00\x00\x00\x00\x00\x00N\x88\x89t")))
	f.Add([]byte("\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01K\x02eu."))
	f.Fuzz(func(t *testing.T, pickle []byte) {
		check(t, archive(t, string(pickle), map[string][]byte{"0": {0, 1, 2, 3, 4, 5}}))
	})
}

func check(t *testing.T, data []byte) {
	d, err := torchpickle.Parse("fuzz", data)
	if err != nil {
		return
	}
	for _, key := range d.Keys() {
		if v, ok := d.Tensor(key); ok && v.Check() != nil {
			t.Fatalf("tensor %q of an accepted file is bad", key)
		}
	}
}

func ExampleParse() {
	d := torchpickle.NewDict()
	d.Set("w", tensor.FromFloat32("w", tensor.Shape{2}, []float32{1, 2}))
	var b bytes.Buffer
	if err := torchpickle.Encode(&b, d); err != nil {
		return
	}
	back, err := torchpickle.Parse("memory", b.Bytes())
	if err != nil {
		return
	}
	_, _ = back.Tensor("w")
}
