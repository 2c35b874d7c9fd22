package text

import (
	"strings"
	"unicode"
)

const (
	// DefaultChunk is the usual length of a chunk.
	DefaultChunk = 1000
	// minChunk is the length up to which a chunk says too little to ask about.
	minChunk = 50
	// breakWindow is how far before the end of a chunk a better place to cut is looked for.
	breakWindow = 100
)

// Chunks cuts a text into pieces of at most size characters: at a line break in the last 100, else after a sentence,
// else at a space there. White space around them goes, and pieces of 50 characters or fewer are dropped.
func Chunks(s string, size int) []string {
	runes := []rune(strings.ReplaceAll(s, "\r\n", "\n"))
	var out []string
	for start := 0; start < len(runes); {
		end := min(start+size, len(runes))
		if end < len(runes) {
			end = cut(runes, start, end)
		}
		piece := strings.TrimSpace(string(runes[start:end]))
		if len([]rune(piece)) > minChunk {
			out = append(out, piece)
		}
		start = end
	}
	return out
}

// cut returns the best place to cut in the last characters before end.
func cut(runes []rune, start, end int) int {
	from := max(start+1, end-breakWindow)
	space, sentence := 0, 0
	for i := end; i > from; i-- {
		switch r := runes[i-1]; {
		case r == '\n':
			return i
		case sentence == 0 && (strings.ContainsRune("。！？", r) || strings.ContainsRune(".!?", r) && i < len(runes) && unicode.IsSpace(runes[i])):
			sentence = i
		case space == 0 && unicode.IsSpace(r):
			space = i
		}
	}
	switch {
	case sentence > 0:
		return sentence
	case space > 0:
		return space
	}
	return end
}
