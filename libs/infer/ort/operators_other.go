//go:build cgo && !(linux && amd64)

package ort

import onnx "github.com/yalue/onnxruntime_go"

func operatorsDomain() string { return "" }

func (s *Session) addOperators(*onnx.SessionOptions, bool) error { return nil }

func (s *Session) dropOperators() {}

func (s *Session) moveProducts(model []byte, _, _ string, _ Options) ([]byte, int, error) {
	return model, 0, nil
}
