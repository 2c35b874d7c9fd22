//go:build cgo && !(linux && amd64)

package ort

import onnx "github.com/yalue/onnxruntime_go"

func operatorsDomain() string { return "" }

func (s *Session) addOperators(*onnx.SessionOptions, bool) error { return nil }

func (s *Session) dropOperators() {}
