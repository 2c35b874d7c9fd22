// Package split cuts Markdown into passages of at most a number of tokens.
// Nothing is cut away: every word of the text stands in a passage. Cuts are
// made at headings, else between paragraphs, list items, rows of a table (its
// head is repeated in each piece) and lines of code, else between sentences,
// clauses and words, and within a word only where it alone is too long.
// Neighbours are merged up to the limit; a heading never ends a passage that
// goes on without it.
//
// The result depends on nothing but the text, the options and Version. Text is
// read in one pass and every piece is counted a bounded number of times, so the
// work is linear and memory flat however long the text is.
package split
