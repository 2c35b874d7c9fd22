// Package ort runs ONNX models on ONNX Runtime. It is the only user of the
// runtime's Go binding in the project; everything else works with Session,
// Tensor and Binding.
//
// The runtime is a shared library that is opened at the first use, not linked:
// CLARA_ONNXRUNTIME names it, else the project's cache, else the folder of the
// program or its lib/ is searched (see Library). Built without cgo, Open
// returns an Unsupported error and everything else links and works.
//
// Two ways to run: Session.Run for models that are called now and then (named
// tensors in, new tensors out), Binding for a hot loop (tensors stay bound,
// outputs are written in place, and an output may be the memory of an input).
//
// A Session may be run from several goroutines at once; a Binding may not.
// Memory that a Value refers to is used by the runtime until the Value is closed.
package ort
