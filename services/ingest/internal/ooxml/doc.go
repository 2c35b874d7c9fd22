// Package ooxml reads the container and the XML that DOCX, PPTX and XLSX files
// share (ECMA-376): parts and their relationships, trees of elements, formulas
// as LaTeX, charts as tables and diagrams as lists.
//
// Every file is taken to be hostile. What is unpacked is bounded as a whole,
// for each entry and in its ratio to the packed size; XML has no document
// type, a bounded depth and a bounded number of elements; names in the archive
// are only ever keys of a map, never paths on disk; what relationships point
// to outside of the file is never fetched.
package ooxml
