package clara

// Passage is a piece of a document that one memory holds.
type Passage struct {
	Collection string   // collection id
	Document   string   // document id
	Ordinal    int      // position in the document's passage set, from 0
	Text       string   // Markdown
	Headings   []string // heading path, outermost first
	PageFirst  int      // 1-based; 0 if the format has no pages
	PageLast   int
	Hash       string // SHA-256 of Text, hex
	Tokens     int    // length of Text in the tokenizer of the package it was cut for
	File       string // file name as given by the user
}

// Candidate is a passage that a search found.
type Candidate struct {
	PointID string
	Passage Passage
	Score   float64 // meaning depends on the search: cosine, BM25 or fused rank
}
