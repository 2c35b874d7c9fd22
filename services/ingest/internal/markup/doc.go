// Package markup writes Markdown: lines of formatted text, and blocks of them
// (headings, paragraphs, list items, tables, code). Every reader of an office
// or web format writes through it, so that the same thing looks the same
// whatever file it came from: lists nest by four spaces, a merged cell stands
// in each cell that it covers, footnotes are [^1].
//
// Values are not safe for concurrent use.
package markup
