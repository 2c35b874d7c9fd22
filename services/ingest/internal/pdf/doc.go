// Package pdf reads PDF files as Markdown.
//
// pdfium, compiled to WebAssembly and run in a sandbox without files or
// network, gives characters, fonts, boxes, lines and pictures; the layout is
// found here: columns, reading order, headings, lists, tables, running heads.
// Coordinates are points, y downwards, from the top left of the page as shown.
//
// The steps, each in its file: source (what is on a page), region (columns),
// row (lines), table, block (paragraphs, lists), furniture (heads and feet),
// document (headings, Markdown).
package pdf
