package picture_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/synthesis/internal/picture"
)

func encoded(t testing.TB, w, h int) []byte {
	t.Helper()
	img := image.NewGray(image.Rect(0, 0, w, h))
	img.Set(w/2, h/2, color.White)
	var buf bytes.Buffer
	require.NoError(t, png.Encode(&buf, img))
	return buf.Bytes()
}

// claims is the start of a PNG of a size that nobody has made the pixels of.
func claims(w, h uint32) []byte {
	head := append([]byte("IHDR"), make([]byte, 13)...)
	binary.BigEndian.PutUint32(head[4:], w)
	binary.BigEndian.PutUint32(head[8:], h)
	head[12], head[13] = 8, 2
	out := binary.BigEndian.AppendUint32([]byte("\x89PNG\r\n\x1a\n"), 13)
	return binary.BigEndian.AppendUint32(append(out, head...), crc32.ChecksumIEEE(head))
}

func TestCheck(t *testing.T) {
	good := encoded(t, 40, 30)
	for _, c := range []struct {
		name string
		data []byte
		kind clara.Kind // 0: good
		says string
	}{
		{"good", good, 0, ""},
		{"11 pixels", encoded(t, 11, 11), 0, ""},
		{"10 pixels wide", encoded(t, 10, 300), clara.Unsupported, "10 x 300 pixels: too small"},
		{"10 pixels high", encoded(t, 300, 10), clara.Unsupported, "too small"},
		{"100 megapixels", claims(10_000, 10_000), clara.Unsupported, "10000 x 10000 pixels"},
		{"4 gigapixels", claims(1<<16, 1<<16), clara.Unsupported, "pixels"},
		{"no picture", []byte("hello"), clara.Corrupt, "not a picture"},
		{"empty", nil, clara.Corrupt, "not a picture"},
		{"cut off in the header", good[:20], clara.Corrupt, "not a picture"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := picture.Check(c.data)
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.says)
			assert.Equal(t, c.kind, clara.KindOf(err))
		})
	}
	_, err := picture.Open(good[:len(good)-20])
	require.Equal(t, clara.Corrupt, clara.KindOf(err), "damaged after the header")
}

func TestJPEGShrinks(t *testing.T) {
	for _, c := range []struct{ w, h, wantW, wantH int }{{4096, 100, 2048, 50}, {200, 3072, 133, 2048}, {2048, 20, 2048, 20}, {40, 30, 40, 30}, {9000, 12, 2048, 2}} {
		img, err := picture.Open(encoded(t, c.w, c.h))
		require.NoError(t, err)
		data, err := picture.JPEG(img)
		require.NoError(t, err)
		cfg, err := jpeg.DecodeConfig(bytes.NewReader(data))
		require.NoError(t, err)
		assert.Equal(t, [2]int{c.wantW, c.wantH}, [2]int{cfg.Width, cfg.Height})
	}
}

func TestJPEGPutsTransparentOnWhite(t *testing.T) {
	data, err := picture.JPEG(image.NewNRGBA(image.Rect(0, 0, 20, 20)))
	require.NoError(t, err)
	img, err := jpeg.Decode(bytes.NewReader(data))
	require.NoError(t, err)
	r, _, _, _ := img.At(10, 10).RGBA()
	assert.Greater(t, r, uint32(0xf000))
}

func FuzzOpen(f *testing.F) {
	f.Add(encoded(f, 20, 20))
	f.Add(claims(1<<16, 1<<16))
	f.Add([]byte("GIF89a\x14\x00\x14\x00\x80\x00\x00"))
	f.Add([]byte("RIFF\x1a\x00\x00\x00WEBPVP8L"))
	f.Add([]byte("II*\x00\x08\x00\x00\x00"))
	f.Add([]byte("BM\x3a\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Small ones only: the limits on large ones are those of Check, and a fuzzer's machine has other things to do.
		if cfg, _, err := image.DecodeConfig(bytes.NewReader(data)); err != nil || cfg.Width > 512 || cfg.Height > 512 {
			return
		}
		if img, err := picture.Open(data); err == nil {
			if _, err := picture.JPEG(img); err != nil {
				t.Fatal(err)
			}
		}
	})
}
