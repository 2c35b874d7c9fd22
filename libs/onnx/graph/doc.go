// Package graph writes ONNX models: one method of Builder per operator, with
// rank, dimension and dtype checks and shape inference at the call, so that a
// wrong graph fails where it is written and not inside the runtime.
//
// A fault sticks in the Builder, as in bufio.Writer: later calls do nothing and
// the first fault comes out of Err and WriteTo. Weights are named by file,
// offset and length (External) and never pass through the process, so a graph
// over a safetensors file costs a few kilobytes. The protobuf wire format is
// written directly (ONNX IR version 10, opset 21, com.microsoft 1).
//
// A Builder is for one goroutine. Its errors are of kind clara.Invalid.
package graph
