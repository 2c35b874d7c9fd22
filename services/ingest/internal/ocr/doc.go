// Package ocr reads text in pictures with PP-OCR models on ONNX Runtime.
//
// Detection finds lines (DBNet: a map of text probability, cut at a threshold
// into regions, each boxed at its own angle and grown), a classifier turns
// lines that stand upside down, recognition reads each (CTC over the
// characters that the model's metadata lists). Pages lying on their side are
// turned first.
//
// Coordinates are pixels of the picture given, x to the right, y downwards.
package ocr
