// Package sniff tells what a file is by its content. The name only decides
// between formats that are all text (Markdown, HTML without a head, plain).
package sniff

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"io"
	"path"
	"strings"
	"unicode/utf16"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
)

// Kind is what a file is.
type Kind struct {
	// Format is "" for what no reader exists for.
	Format doc.Format
	// Name is the kind in words: "a Word document", "a RAR archive".
	Name string
	// Hint is the way out where no reader exists, else "".
	Hint string
	// Encrypted is an office file in the container that a password makes of it.
	Encrypted bool
	// Damaged is an archive that is not whole.
	Damaged bool
}

// head is how much of a file is looked at.
const head = 16 << 10

// Detect looks at the content of a file. Errors: Invalid for an empty file,
// Unavailable for one that can't be read.
func Detect(name string, r io.ReaderAt, size int64) (Kind, error) {
	if size <= 0 {
		return Kind{}, clara.Errorf(clara.Invalid, "the file is empty")
	}
	b := make([]byte, min(size, head))
	n, err := r.ReadAt(b, 0)
	if b = b[:n]; n == 0 {
		return Kind{}, clara.Errorf(clara.Unavailable, "read the file's first bytes: %w", err)
	}
	if bytes.HasPrefix(b, []byte("PK\x03\x04")) || bytes.HasPrefix(b, []byte("PK\x05\x06")) {
		return archive(name, b, r, size), nil
	}
	if bytes.HasPrefix(b, []byte("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")) {
		return compound(r, size, b), nil
	}
	for _, m := range magic {
		if m.at+len(m.sign) <= len(b) && string(b[m.at:m.at+len(m.sign)]) == m.sign {
			return m.kind, nil
		}
	}
	// "BM" may begin a text too: the header's reserved bytes are zero.
	if len(b) > 26 && bytes.HasPrefix(b, []byte("BM")) && string(b[6:10]) == "\x00\x00\x00\x00" {
		return picture("a BMP picture"), nil
	}
	if i := bytes.Index(b[:min(len(b), 1024)], []byte("%PDF-")); i >= 0 {
		return Kind{Format: doc.PDF, Name: "a PDF"}, nil
	}
	if !isText(b) {
		return Kind{Name: "a binary file of an unknown kind", Hint: "convert it to PDF, DOCX, HTML or text"}, nil
	}
	return text(name, b), nil
}

type sign struct {
	at   int
	sign string
	kind Kind
}

func picture(name string) Kind { return Kind{Format: doc.Picture, Name: name} }
func other(name, hint string) Kind {
	return Kind{Name: name, Hint: hint}
}

const (
	unpack = "unpack it first"
	media  = "only documents and pictures are read"
)

var magic = []sign{
	{0, "%PDF-", Kind{Format: doc.PDF, Name: "a PDF"}},
	{0, "\x89PNG\r\n\x1a\n", picture("a PNG picture")},
	{0, "\xff\xd8\xff", picture("a JPEG picture")},
	{0, "GIF87a", picture("a GIF picture")},
	{0, "GIF89a", picture("a GIF picture")},
	{0, "II*\x00", picture("a TIFF picture")},
	{0, "MM\x00*", picture("a TIFF picture")},
	{8, "WEBP", picture("a WebP picture")},
	{0, "{\\rtf", other("a Rich Text (RTF) document", "save it as DOCX")},
	{0, "\x1f\x8b", other("a gzip archive", unpack)},
	{0, "BZh", other("a bzip2 archive", unpack)},
	{0, "\xfd7zXZ\x00", other("an xz archive", unpack)},
	{0, "\x28\xb5\x2f\xfd", other("a Zstandard archive", unpack)},
	{0, "7z\xbc\xaf\x27\x1c", other("a 7z archive", unpack)},
	{0, "Rar!\x1a\x07", other("a RAR archive", unpack)},
	{257, "ustar", other("a tar archive", unpack)},
	{0, "PK\x07\x08", other("a split zip archive", unpack)},
	{0, "\x7fELF", other("a program (ELF)", media)},
	{0, "MZ", other("a Windows program", media)},
	{0, "%!PS", other("a PostScript file", "convert it to PDF")},
	{0, "SQLite format 3\x00", other("an SQLite database", "export it as text")},
	{0, "ID3", other("an MP3 recording", media)},
	{0, "OggS", other("an Ogg recording", media)},
	{0, "fLaC", other("a FLAC recording", media)},
	{4, "ftyp", other("a video or picture in an MP4 container", media)},
	{0, "\x1aE\xdf\xa3", other("a Matroska video", media)},
	{8, "WAVE", other("a WAV recording", media)},
	{8, "AVI ", other("an AVI video", media)},
	{0, "AT&TFORM", other("a DjVu document", "convert it to PDF")},
	{60, "BOOKMOBI", other("a Mobipocket e-book", "convert it to HTML or PDF")},
	{0, "\x00\x01\x00\x00\x00", other("a TrueType font", media)},
	{0, "OTTO", other("an OpenType font", media)},
	{0, "\x00asm", other("a WebAssembly program", media)},
	{0, "\xca\xfe\xba\xbe", other("a compiled Java class or a program", media)},
	{0, "GGUF", other("a GGUF model", "import it with 'clara models import'")},
	{0, "PAR1", other("a Parquet table", "export it as text")},
	{0, "8BPS", other("a Photoshop picture", "save it as PNG")},
	{0, "!BDN", other("an Outlook mailbox", "export its messages")},
}

// archive tells office files from other zip archives by their entries.
func archive(name string, b []byte, r io.ReaderAt, size int64) Kind {
	z, err := zip.NewReader(r, size)
	if err != nil {
		// No directory: a truncated file. Its first entries still tell what it was.
		k := byEntries(localNames(b))
		if k.Format == "" {
			k = byExtension(name)
		}
		if k.Format == "" {
			k = Kind{Name: "a truncated or damaged zip archive", Hint: "fetch the file again", Damaged: true}
		}
		return k
	}
	names := make([]string, 0, len(z.File))
	for i, f := range z.File {
		if i > 100_000 {
			break
		}
		names = append(names, f.Name)
		if f.Name == "mimetype" && f.UncompressedSize64 < 200 {
			if k, ok := openDocument(f); ok {
				return k
			}
		}
	}
	k := byEntries(names)
	if k.Name == "" {
		return other("a zip archive", unpack)
	}
	return k
}

func openDocument(f *zip.File) (Kind, bool) {
	rc, err := f.Open()
	if err != nil {
		return Kind{}, false
	}
	defer rc.Close()
	b, _ := io.ReadAll(io.LimitReader(rc, 200))
	switch s := string(bytes.TrimSpace(b)); {
	case strings.HasPrefix(s, "application/vnd.oasis.opendocument.text"):
		return other("an OpenDocument text", "save it as DOCX"), true
	case strings.HasPrefix(s, "application/vnd.oasis.opendocument.presentation"):
		return other("an OpenDocument presentation", "save it as PPTX"), true
	case strings.HasPrefix(s, "application/vnd.oasis.opendocument.spreadsheet"):
		return other("an OpenDocument spreadsheet", "save it as XLSX"), true
	case strings.HasPrefix(s, "application/vnd.oasis.opendocument"):
		return other("an OpenDocument file", "convert it to PDF"), true
	case s == "application/epub+zip":
		return other("an EPUB e-book", "convert it to HTML or PDF"), true
	}
	return Kind{}, false
}

func byEntries(names []string) Kind {
	office := false
	var word, ppt, xl, xlb bool
	for _, n := range names {
		n = strings.ToLower(strings.TrimPrefix(strings.ReplaceAll(n, `\`, "/"), "/"))
		switch {
		case n == "[content_types].xml":
			office = true
		case strings.HasPrefix(n, "word/") && strings.HasSuffix(n, ".xml"):
			word = true
		case strings.HasPrefix(n, "ppt/") && strings.HasSuffix(n, ".xml"):
			ppt = true
		case n == "xl/workbook.bin":
			xlb = true
		case strings.HasPrefix(n, "xl/") && strings.HasSuffix(n, ".xml"):
			xl = true
		case n == "meta-inf/manifest.mf":
			return other("a Java archive", unpack)
		case n == "androidmanifest.xml":
			return other("an Android package", unpack)
		case strings.HasPrefix(n, "index/") && strings.HasSuffix(n, ".iwa"):
			return other("an Apple iWork document", "export it as PDF or DOCX")
		}
	}
	switch {
	case word:
		return Kind{Format: doc.DOCX, Name: "a Word document (DOCX)"}
	case ppt:
		return Kind{Format: doc.PPTX, Name: "a PowerPoint presentation (PPTX)"}
	case xlb:
		return other("a binary Excel workbook (XLSB)", "save it as XLSX")
	case xl:
		return Kind{Format: doc.XLSX, Name: "an Excel workbook (XLSX)"}
	case office:
		return other("an office file of an unknown kind", "save it as DOCX, PPTX or PDF")
	}
	return Kind{}
}

func byExtension(name string) Kind {
	switch strings.ToLower(path.Ext(name)) {
	case ".docx", ".docm", ".dotx":
		return Kind{Format: doc.DOCX, Name: "a Word document (DOCX)"}
	case ".pptx", ".pptm", ".ppsx", ".potx":
		return Kind{Format: doc.PPTX, Name: "a PowerPoint presentation (PPTX)"}
	case ".xlsx", ".xlsm":
		return Kind{Format: doc.XLSX, Name: "an Excel workbook (XLSX)"}
	}
	return Kind{}
}

// localNames returns the names in the headers that stand before the entries.
func localNames(b []byte) []string {
	var out []string
	for {
		i := bytes.Index(b, []byte("PK\x03\x04"))
		if i < 0 || i+30 > len(b) {
			return out
		}
		n := int(binary.LittleEndian.Uint16(b[i+26:]))
		if i+30+n > len(b) {
			return out
		}
		out = append(out, string(b[i+30:i+30+n]))
		b = b[i+30+n:]
	}
}

// compound tells what an OLE container (the format of office files before
// 2007, and of encrypted ones since) holds, by the names in its directory.
func compound(r io.ReaderAt, size int64, b []byte) Kind {
	names := compoundNames(r, size, b)
	switch {
	case names["EncryptedPackage"]:
		return Kind{Name: "an office file protected by a password", Encrypted: true, Hint: "give its password (--password)"}
	case names["WordDocument"]:
		return other("a Word 97-2003 document (.doc)", "save it as DOCX")
	case names["PowerPoint Document"]:
		return other("a PowerPoint 97-2003 presentation (.ppt)", "save it as PPTX")
	case names["Workbook"], names["Book"]:
		return other("an Excel 97-2003 workbook (.xls)", "save it as XLSX")
	case names["__properties_version1.0"]:
		return other("an Outlook message (.msg)", "export it as text or PDF")
	case names["VisioDocument"]:
		return other("a Visio drawing", "export it as PDF")
	}
	return other("an OLE container of an unknown kind", "save it in a current office format")
}

// compoundNames walks the directory's chain of sectors, within bounds: a
// hostile file may close it to a ring.
func compoundNames(r io.ReaderAt, size int64, b []byte) map[string]bool {
	out := map[string]bool{}
	if len(b) < 512 {
		return out
	}
	shift := binary.LittleEndian.Uint16(b[30:])
	if shift != 9 && shift != 12 {
		return out
	}
	sector := int64(1) << shift
	next := binary.LittleEndian.Uint32(b[48:])
	buf := make([]byte, sector)
	for range 256 {
		off := (int64(next) + 1) * sector
		if next >= 0xfffffffa || off >= size {
			break
		}
		n, _ := r.ReadAt(buf, off)
		for e := 0; e+128 <= n; e += 128 {
			l := int(binary.LittleEndian.Uint16(buf[e+64:]))
			if l < 2 || l > 64 {
				continue
			}
			u := make([]uint16, (l-2)/2)
			for i := range u {
				u[i] = binary.LittleEndian.Uint16(buf[e+2*i:])
			}
			out[string(utf16.Decode(u))] = true
		}
		// The table of sectors: its first 109 are named in the header.
		per := uint32(sector / 4)
		if next/per >= 109 {
			break
		}
		fat := binary.LittleEndian.Uint32(b[76+4*(next/per):])
		var link [4]byte
		if _, err := r.ReadAt(link[:], (int64(fat)+1)*sector+int64(next%per)*4); err != nil {
			break
		}
		next = binary.LittleEndian.Uint32(link[:])
	}
	return out
}

// isText reports whether the bytes look like text in some encoding.
func isText(b []byte) bool {
	if bytes.HasPrefix(b, []byte("\xff\xfe")) || bytes.HasPrefix(b, []byte("\xfe\xff")) || bytes.HasPrefix(b, []byte("\xef\xbb\xbf")) {
		return true
	}
	zeros, control := [2]int{}, 0
	for i, c := range b {
		switch {
		case c == 0:
			zeros[i%2]++
		case c < 0x20 && c != '\t' && c != '\n' && c != '\r' && c != '\f' && c != '\b' && c != 0x1b && c != 0x1a && c != '\v':
			control++
		}
	}
	if z := zeros[0] + zeros[1]; z > 0 {
		// UTF-16 without a mark: Latin letters have a zero in every second place.
		// A stray zero here and there is still text.
		more, few := max(zeros[0], zeros[1]), min(zeros[0], zeros[1])
		return control*50 <= len(b) && (5*more > len(b) && 10*few < more || 1000*z <= len(b))
	}
	return control*50 <= len(b)
}

func text(name string, b []byte) Kind {
	ext := strings.ToLower(path.Ext(name))
	lower := strings.ToLower(string(ascii(b)))
	lower = strings.TrimLeft(lower, " \t\r\n")
	for strings.HasPrefix(lower, "<!--") {
		_, rest, ok := strings.Cut(lower, "-->")
		if !ok {
			break
		}
		lower = strings.TrimLeft(rest, " \t\r\n")
	}
	if strings.HasPrefix(lower, "<?xml") {
		if _, rest, ok := strings.Cut(lower, "?>"); ok {
			lower = strings.TrimLeft(rest, " \t\r\n")
		}
	}
	switch {
	case strings.HasPrefix(lower, "<!doctype html"), strings.HasPrefix(lower, "<html"), strings.HasPrefix(lower, "<head"), strings.HasPrefix(lower, "<body"):
		return Kind{Format: doc.HTML, Name: "an HTML page"}
	case strings.HasPrefix(lower, "<svg"):
		return other("an SVG drawing", "export it as PNG or PDF")
	case (ext == ".html" || ext == ".htm" || ext == ".xhtml") && strings.Contains(lower, "<"):
		return Kind{Format: doc.HTML, Name: "an HTML page"}
	case ext == ".md" || ext == ".markdown" || ext == ".mdown" || ext == ".mkd" || ext == ".mdx" || ext == ".qmd" || ext == ".rmd":
		return Kind{Format: doc.Markdown, Name: "a Markdown text"}
	case strings.HasPrefix(lower, "from: ") || strings.HasPrefix(lower, "mime-version:") && strings.Contains(lower, "multipart/related"):
		if strings.Contains(lower, "multipart/related") {
			return other("a web archive (MHTML)", "save it as HTML")
		}
	}
	return Kind{Format: doc.Text, Name: "a plain text"}
}

// ascii drops the zeros and the mark of UTF-16, for a look at the tags only.
func ascii(b []byte) []byte {
	b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
	if bytes.IndexByte(b, 0) < 0 {
		return b
	}
	return bytes.ReplaceAll(bytes.TrimLeft(b, "\xff\xfe"), []byte{0}, nil)
}
