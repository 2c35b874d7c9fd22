package sniff_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/ooxml/ooxmltest"
	"github.com/clara-suite/clara/services/ingest/internal/sniff"
)

// compound is an OLE container whose directory has the given names.
func compound(names ...string) []byte {
	b := make([]byte, 512*3)
	copy(b, "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
	binary.LittleEndian.PutUint16(b[30:], 9)
	binary.LittleEndian.PutUint32(b[48:], 0) // the directory is sector 0
	binary.LittleEndian.PutUint32(b[76:], 1) // the table is sector 1
	for i, n := range names {
		e := b[512+128*i:]
		u := utf16.Encode([]rune(n))
		for j, c := range u {
			binary.LittleEndian.PutUint16(e[2*j:], c)
		}
		binary.LittleEndian.PutUint16(e[64:], uint16(2*len(u)+2))
	}
	binary.LittleEndian.PutUint32(b[1024:], 0) // the chain closes to a ring
	return b
}

func TestDetect(t *testing.T) {
	docx := ooxmltest.Docx("", nil)
	for _, c := range []struct {
		name, file string
		content    string
		format     doc.Format
		says       string
	}{
		{"pdf", "x.pdf", "%PDF-1.7\n", doc.PDF, "PDF"},
		{"pdf after junk", "x", "junk\n%PDF-1.4", doc.PDF, "PDF"},
		{"docx", "x.pdf", string(docx), doc.DOCX, "Word"},
		{"truncated docx", "x.bin", string(docx[:len(docx)/2]), doc.DOCX, "Word"},
		{"pptx", "x", string(ooxmltest.Zip(ooxmltest.Part{"ppt/presentation.xml", ""})), doc.PPTX, "PowerPoint"},
		{"xlsx", "x", string(ooxmltest.Zip(ooxmltest.Part{"xl/workbook.xml", ""})), doc.XLSX, "Excel"},
		{"xlsb", "x", string(ooxmltest.Zip(ooxmltest.Part{"xl/workbook.bin", ""})), "", "XLSB"},
		{"odt", "x.docx", string(ooxmltest.Zip(ooxmltest.Part{"mimetype", "application/vnd.oasis.opendocument.text"})), "", "OpenDocument text"},
		{"epub", "x", string(ooxmltest.Zip(ooxmltest.Part{"mimetype", "application/epub+zip"})), "", "EPUB"},
		{"zip", "x.docx", string(ooxmltest.Zip(ooxmltest.Part{"readme", "x"})), "", "zip archive"},
		{"old doc", "x.docx", string(compound("Root Entry", "WordDocument")), "", "97-2003"},
		{"old ppt", "x", string(compound("PowerPoint Document")), "", "PowerPoint 97"},
		{"old xls", "x", string(compound("Workbook")), "", "Excel 97"},
		{"png", "x.jpg", "\x89PNG\r\n\x1a\n", doc.Picture, "PNG"},
		{"jpeg", "x", "\xff\xd8\xff\xe0", doc.Picture, "JPEG"},
		{"bmp", "x", "BM\x10\x20\x30\x40\x00\x00\x00\x00" + strings.Repeat("\x01", 30), doc.Picture, "BMP"},
		{"text that begins like a bmp", "x.txt", "BMW makes cars and motor cycles in Munich", doc.Text, "plain"},
		{"rtf", "x.doc", `{\rtf1 hello}`, "", "RTF"},
		{"gzip", "x", "\x1f\x8b\x08", "", "gzip"},
		{"program", "x", "\x7fELF\x02", "", "program"},
		{"binary", "x.txt", "\x00\x01\x02\x03\x00\x07\x09\x00\x11\x00\x00\x02", "", "binary"},
		{"html", "x.txt", "\ufeff <!-- c -->\n<!DOCTYPE html><p>x", doc.HTML, "HTML"},
		{"xhtml", "x", "<?xml version='1.0'?>\n<html xmlns='x'>", doc.HTML, "HTML"},
		{"html without a head", "x.htm", "<p>x", doc.HTML, "HTML"},
		{"utf-16 html", "x", "\xff\xfe<\x00h\x00t\x00m\x00l\x00>\x00", doc.HTML, "HTML"},
		{"markdown", "x.MD", "# x", doc.Markdown, "Markdown"},
		{"text", "x.log", "x", doc.Text, "plain"},
		{"gbk text", "x.txt", "\xb9\xab\xcb\xbe\xb5\xc4", doc.Text, "plain"},
		{"text with a stray zero", "x", strings.Repeat("line of text\n", 200) + "\x00", doc.Text, "plain"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, err := sniff.Detect(c.file, strings.NewReader(c.content), int64(len(c.content)))
			require.NoError(t, err)
			assert.Equal(t, c.format, k.Format)
			assert.Contains(t, k.Name, c.says)
			if k.Format == "" {
				assert.NotEmpty(t, k.Hint, "the way out")
			}
		})
	}
	k, err := sniff.Detect("x.docx", bytes.NewReader(compound("EncryptionInfo", "EncryptedPackage")), 1536)
	require.NoError(t, err)
	assert.True(t, k.Encrypted)
	_, err = sniff.Detect("x", strings.NewReader(""), 0)
	assert.Equal(t, clara.Invalid, clara.KindOf(err))
}

func FuzzDetect(f *testing.F) {
	f.Add(compound("Book"))
	f.Add(ooxmltest.Docx("", nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := sniff.Detect("x", bytes.NewReader(b), int64(len(b)))
		if err == nil && k.Name == "" {
			t.Fatal("a kind without a name")
		}
	})
}
