//go:build cgo

package ort

import onnx "github.com/yalue/onnxruntime_go"

// wrapHalf returns an Unsupported error in this build.
func wrapHalf(*Value, []int64, Half) (onnx.Value, error) { return nil, noDevice() }
