// Package picture makes pictures ready for a vision model: checked, shrunk, JPEG.
// Functions are safe for concurrent use.
package picture

import (
	"bytes"
	"image"
	"image/color"
	_ "image/gif" // formats are registered by import
	"image/jpeg"
	_ "image/png"

	"golang.org/x/image/draw"

	_ "golang.org/x/image/bmp"
	_ "golang.org/x/image/tiff"
	_ "golang.org/x/image/webp"

	"github.com/clara-suite/clara/libs/clara"
)

const (
	// MaxSide is the longest side that is sent.
	MaxSide = 2048
	// minSide is the length up to which a picture shows nothing: rules, bullets, spacers.
	minSide = 10
	// maxPixels bounds what is decoded.
	maxPixels = 64 << 20
	// MaxBytes bounds the file.
	MaxBytes = 64 << 20

	quality = 90
)

// Check looks at a picture's header. Corrupt for what is no picture, Unsupported for what is too small to show anything
// or too large to decode.
func Check(data []byte) error {
	cfg, _, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return clara.Errorf(clara.Corrupt, "not a picture that can be read: %w", err)
	}
	switch {
	case cfg.Width <= minSide || cfg.Height <= minSide:
		return clara.Errorf(clara.Unsupported, "%d x %d pixels: too small to show anything", cfg.Width, cfg.Height)
	case int64(cfg.Width)*int64(cfg.Height) > maxPixels:
		return clara.Errorf(clara.Unsupported, "%d x %d pixels: more than the %d that are decoded", cfg.Width, cfg.Height, maxPixels)
	}
	return nil
}

// Open checks and decodes a picture; errors are those of Check.
func Open(data []byte) (image.Image, error) {
	if err := Check(data); err != nil {
		return nil, err
	}
	img, format, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, clara.Errorf(clara.Corrupt, "damaged %s: %w", format, err)
	}
	return img, nil
}

// JPEG shrinks a picture to at most MaxSide a side, puts it on white, and encodes it.
func JPEG(img image.Image) ([]byte, error) {
	size := img.Bounds().Size()
	if long := max(size.X, size.Y); long > MaxSide {
		size.X, size.Y = max(1, size.X*MaxSide/long), max(1, size.Y*MaxSide/long)
	}
	out := image.NewRGBA(image.Rectangle{Max: size})
	draw.Draw(out, out.Bounds(), image.NewUniform(color.White), image.Point{}, draw.Src)
	if size == img.Bounds().Size() {
		draw.Draw(out, out.Bounds(), img, img.Bounds().Min, draw.Over)
	} else {
		draw.CatmullRom.Scale(out, out.Bounds(), img, img.Bounds(), draw.Over, nil)
	}
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, out, &jpeg.Options{Quality: quality}); err != nil {
		return nil, clara.Errorf(clara.Unsupported, "encode JPEG: %w", err)
	}
	return buf.Bytes(), nil
}
