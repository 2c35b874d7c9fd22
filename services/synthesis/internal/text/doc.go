// Package text is what synthesis knows about texts: cutting them into chunks,
// which language they are in, and how alike two of them are. Lengths are in
// characters (Unicode code points). Functions are pure and safe for concurrent use.
package text
