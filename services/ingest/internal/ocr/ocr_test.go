package ocr_test

import (
	"context"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/libs/testkit/partstest"
	"github.com/clara-suite/clara/services/ingest/internal/ocr"
)

// drawn returns lines of text in black on white.
func drawn(t *testing.T, lines ...string) *image.RGBA {
	t.Helper()
	f, err := opentype.Parse(goregular.TTF)
	require.NoError(t, err)
	face, err := opentype.NewFace(f, &opentype.FaceOptions{Size: 28, DPI: 72})
	require.NoError(t, err)
	width := 700
	for _, l := range lines {
		width = max(width, 80+font.MeasureString(face, l).Ceil())
	}
	img := image.NewRGBA(image.Rect(0, 0, width, 60+60*len(lines)))
	draw.Draw(img, img.Bounds(), image.White, image.Point{}, draw.Src)
	for i, l := range lines {
		d := font.Drawer{Dst: img, Src: image.Black, Face: face, Dot: fixed.P(40, 60+60*i)}
		d.DrawString(l)
	}
	return img
}

// turned turns the picture a quarter clockwise.
func turned(img *image.RGBA) *image.RGBA {
	b := img.Bounds()
	out := image.NewRGBA(image.Rect(0, 0, b.Dy(), b.Dx()))
	for y := range b.Dy() {
		for x := range b.Dx() {
			out.Set(b.Dy()-1-y, x, img.At(x, y))
		}
	}
	return out
}

func TestMissingModels(t *testing.T) {
	e := ocr.New(ocr.Config{Dir: t.TempDir()})
	defer e.Close()
	_, err := e.Recognize(context.Background(), image.NewGray(image.Rect(0, 0, 8, 8)))
	assert.Equal(t, clara.State, clara.KindOf(err))
	assert.ErrorContains(t, err, "scripts/deps.sh ocr")
}

func TestRecognize(t *testing.T) {
	e := ocr.New(ocr.Config{})
	defer e.Close()
	partstest.Fetched(t, e.Ready())
	want := []string{"The ordinary fee is 42 euros", "and every window stays open"}
	page := drawn(t, want...)
	quarter := turned(page)
	half := turned(quarter)
	for _, c := range []struct {
		name string
		img  image.Image
	}{{"upright", page}, {"clockwise", quarter}, {"upside down", half}, {"anticlockwise", turned(half)}} {
		t.Run(c.name, func(t *testing.T) {
			start := time.Now()
			lines, err := e.Recognize(context.Background(), c.img)
			t.Log(time.Since(start))
			require.NoError(t, err)
			require.Len(t, lines, len(want))
			for i, l := range lines {
				assert.Equal(t, strings.ReplaceAll(want[i], " ", ""), strings.ReplaceAll(l.Text, " ", ""))
				assert.Greater(t, l.Score, 0.8)
			}
		})
	}
	t.Run("nothing to read", func(t *testing.T) {
		img := image.NewRGBA(image.Rect(0, 0, 300, 200))
		draw.Draw(img, img.Bounds(), image.NewUniform(color.White), image.Point{}, draw.Src)
		lines, err := e.Recognize(context.Background(), img)
		require.NoError(t, err)
		assert.Empty(t, lines)
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := e.Recognize(ctx, page)
		assert.ErrorIs(t, err, context.Canceled)
	})
}

// Long lines upside down fool the classifier of directions, which sees them
// squeezed: they must read right all the same.
func TestLongLinesUpsideDown(t *testing.T) {
	e := ocr.New(ocr.Config{})
	defer e.Close()
	partstest.Fetched(t, e.Ready())
	want := "The clerk writes the name of the ship and her last port"
	page := turned(turned(drawn(t, want+" here", want+" again", want+" twice")))
	lines, err := e.Recognize(context.Background(), page)
	require.NoError(t, err)
	require.Len(t, lines, 3)
	for _, l := range lines {
		assert.Contains(t, strings.ReplaceAll(l.Text, " ", ""), strings.ReplaceAll(want, " ", ""))
	}
	// Places are those on the picture as it came: the first line is its last.
	assert.Greater(t, lines[0].Corners[0].Y, lines[2].Corners[0].Y)
}

// Lines are read in batches, several at once: none is lost, and they come from top to bottom.
func TestManyLines(t *testing.T) {
	e := ocr.New(ocr.Config{Threads: 3})
	defer e.Close()
	partstest.Fetched(t, e.Ready())
	var want []string
	for i := range 20 {
		want = append(want, fmt.Sprintf("Berth %d%s", 100+7*i, strings.Repeat(" holds a barge", i%3)))
	}
	lines, err := e.Recognize(context.Background(), drawn(t, want...))
	require.NoError(t, err)
	require.Len(t, lines, len(want))
	for i, l := range lines {
		assert.Equal(t, strings.ReplaceAll(want[i], " ", ""), strings.ReplaceAll(l.Text, " ", ""))
	}
}
