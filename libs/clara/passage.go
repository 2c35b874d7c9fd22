package clara

// Passage is a piece of a document that one memory holds.
type Passage struct {
	Collection string   `json:"collection,omitempty"` // collection id
	Document   string   `json:"document,omitempty"`   // document id
	Ordinal    int      `json:"ordinal"`              // position in the document's passage set, from 0
	Text       string   `json:"text"`                 // Markdown
	Headings   []string `json:"headings,omitempty"`   // heading path, outermost first
	PageFirst  int      `json:"page_first,omitempty"` // 1-based; 0 if the format has no pages
	PageLast   int      `json:"page_last,omitempty"`
	Hash       string   `json:"hash"`             // SHA-256 of Text, hex
	Tokens     int      `json:"tokens,omitempty"` // length of Text in the tokenizer of the package it was cut for
	File       string   `json:"file,omitempty"`   // file name as given by the user
}

// Candidate is a passage that a search found.
type Candidate struct {
	PointID  string
	Passage  Passage
	Revision int64   // of the document that the passage was cut from
	Score    float64 // meaning depends on the search: cosine, BM25 or fused rank
}
