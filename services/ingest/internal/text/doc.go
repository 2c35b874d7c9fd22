// Package text reads plain text in whatever encoding it is: UTF-8, UTF-16 and
// UTF-32 (with or without a mark), GB 18030, Big5, Shift-JIS, EUC, Windows and
// ISO 8859 code pages. It passes through unchanged otherwise.
package text
