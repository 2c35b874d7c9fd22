package text

import (
	"bytes"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/wlynxg/chardet"
	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/unicode"
	"golang.org/x/text/encoding/unicode/utf32"
	"golang.org/x/text/transform"

	"github.com/clara-suite/clara/libs/clara"
)

// sample is how much text in foreign bytes is looked at to tell its encoding.
const sample = 256 << 10

// Detect names the encoding of a text and returns a decoder for it; nil is
// UTF-8. It reads the whole file once, in pieces: text is often plain ASCII
// for long before the first byte that tells.
func Detect(r io.ReaderAt, size int64) (string, encoding.Encoding, error) {
	var mark [4]byte
	n, err := r.ReadAt(mark[:], 0)
	if n == 0 && err != nil && err != io.EOF {
		return "", nil, clara.Errorf(clara.Unavailable, "read the text: %w", err)
	}
	b := mark[:n]
	switch {
	case bytes.HasPrefix(b, []byte{0xff, 0xfe, 0, 0}):
		return "utf-32le", utf32.UTF32(utf32.LittleEndian, utf32.UseBOM), nil
	case bytes.HasPrefix(b, []byte{0, 0, 0xfe, 0xff}):
		return "utf-32be", utf32.UTF32(utf32.BigEndian, utf32.UseBOM), nil
	case bytes.HasPrefix(b, []byte{0xff, 0xfe}):
		return "utf-16le", unicode.UTF16(unicode.LittleEndian, unicode.UseBOM), nil
	case bytes.HasPrefix(b, []byte{0xfe, 0xff}):
		return "utf-16be", unicode.UTF16(unicode.BigEndian, unicode.UseBOM), nil
	case bytes.HasPrefix(b, []byte{0xef, 0xbb, 0xbf}):
		return "utf-8", nil, nil
	}
	foreign, zeros, err := scan(r, size)
	if err != nil {
		return "", nil, err
	}
	// UTF-16 without a mark: Latin letters have a zero in every second place.
	if z, few := max(zeros[0], zeros[1]), min(zeros[0], zeros[1]); 5*z > size && 10*few < z {
		if zeros[1] > zeros[0] {
			return "utf-16le", unicode.UTF16(unicode.LittleEndian, unicode.IgnoreBOM), nil
		}
		return "utf-16be", unicode.UTF16(unicode.BigEndian, unicode.IgnoreBOM), nil
	}
	if foreign == nil {
		return "utf-8", nil, nil
	}
	name, enc := guess(foreign)
	return name, enc, nil
}

// scan returns the lines around bytes that are not UTF-8, nil if all of them
// are, and counts zeros at even and odd places.
func scan(r io.ReaderAt, size int64) (foreign []byte, zeros [2]int64, err error) {
	buf := make([]byte, 64<<10)
	keep := 0
	var off int64
	invalid, total := int64(0), int64(0)
	for off < size {
		n, err := r.ReadAt(buf[keep:min(int64(len(buf)), int64(keep)+size-off)], off)
		if n == 0 {
			if err != nil && err != io.EOF {
				return nil, zeros, clara.Errorf(clara.Unavailable, "read the text at byte %d: %w", off, err)
			}
			break
		}
		for i, c := range buf[keep : keep+n] {
			if c == 0 {
				zeros[(off+int64(i))%2]++
			}
		}
		off += int64(n)
		b := buf[:keep+n]
		whole := b
		if off < size { // a character may be cut at the end
			for i := 1; i <= min(utf8.UTFMax-1, len(b)); i++ {
				if utf8.RuneStart(b[len(b)-i]) {
					if !utf8.FullRune(b[len(b)-i:]) {
						whole = b[:len(b)-i]
					}
					break
				}
			}
		}
		total += int64(len(whole))
		if !utf8.Valid(whole) {
			for line := range bytes.SplitSeq(whole, []byte{'\n'}) {
				if !utf8.Valid(line) {
					invalid += int64(len(line))
					if len(foreign) < sample {
						foreign = append(append(foreign, line...), '\n')
					}
				}
			}
		}
		keep = copy(buf, b[len(whole):])
	}
	if invalid > 0 && total > 0 && damaged(foreign) {
		return nil, zeros, nil
	}
	return foreign, zeros, nil
}

// damaged reports whether bytes are UTF-8 with a few broken characters rather
// than another encoding: most of what is not ASCII forms whole characters.
func damaged(b []byte) bool {
	good, bad := 0, 0
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		switch {
		case r == utf8.RuneError && n <= 1:
			bad++
		case n > 1:
			good++
		}
		i += max(n, 1)
	}
	return good > 20*bad
}

// guess names the encoding of bytes that are not UTF-8.
func guess(b []byte) (string, encoding.Encoding) {
	best, name := -1.0, ""
	for _, c := range chardet.DetectAll(b) {
		if c.Confidence > best && c.Encoding != "" {
			if _, err := lookup(c.Encoding); err == nil {
				best, name = c.Confidence, strings.ToLower(c.Encoding)
			}
		}
	}
	// GBK is by far the most frequent where the detector has no opinion but
	// the bytes come in the pairs that GBK has.
	if best < 0.5 && pairs(b) {
		return "gb18030", simplifiedchinese.GB18030
	}
	if best < 0.2 {
		return "windows-1252", charmap.Windows1252
	}
	enc, _ := lookup(name)
	return name, enc
}

func lookup(name string) (encoding.Encoding, error) {
	switch name = strings.ToLower(name); {
	case name == "gb2312" || name == "gbk" || name == "gb18030" || strings.HasPrefix(name, "hz"):
		return simplifiedchinese.GB18030, nil
	case name == "ascii" || name == "iso-8859-1":
		return charmap.Windows1252, nil
	case name == "maccyrillic" || name == "mac_cyrillic":
		return charmap.MacintoshCyrillic, nil
	case name == "macroman" || name == "mac-roman":
		return charmap.Macintosh, nil
	case name == "johab" || name == "cp949" || name == "uhc":
		name = "euc-kr"
	case name == "cp932" || name == "shift-jis":
		name = "shift_jis"
	case name == "cp866" || name == "ibm866":
		name = "ibm866"
	case name == "tis-620":
		name = "windows-874"
	}
	return htmlindex.Get(name)
}

// pairs reports whether high bytes come in pairs as GBK has them. Most of its characters in use have two high bytes; an
// accented letter of Western Europe before a plain one would do for the others.
func pairs(b []byte) bool {
	good, bad, high := 0, 0, 0
	for i := 0; i < len(b); i++ {
		if b[i] < 0x81 {
			continue
		}
		if i+1 < len(b) && b[i] <= 0xfe && b[i+1] >= 0x40 && b[i+1] != 0x7f && b[i+1] <= 0xfe {
			good++
			if b[i+1] >= 0xa1 {
				high++
			}
			i++
		} else {
			bad++
		}
	}
	return good > 50*bad && good > 3 && 2*high > good
}

// NewReader returns the text as UTF-8 with line feeds, without a byte order
// mark and control characters; what is no character becomes U+FFFD. It reads r
// in pieces, so the size of the text is no matter. name is the encoding.
func NewReader(r io.ReaderAt, size int64) (text io.Reader, name string, err error) {
	name, enc, err := Detect(r, size)
	if err != nil {
		return nil, "", err
	}
	var in io.Reader = io.NewSectionReader(r, 0, size)
	if enc != nil {
		in = transform.NewReader(in, enc.NewDecoder())
	}
	return transform.NewReader(in, &normalizer{start: true}), name, nil
}

// normalizer makes valid UTF-8 with line feeds of almost UTF-8.
type normalizer struct {
	start bool
	cr    bool
}

func (t *normalizer) Reset() { *t = normalizer{start: true} }

func (t *normalizer) Transform(dst, src []byte, atEOF bool) (nDst, nSrc int, err error) {
	for nSrc < len(src) {
		c := src[nSrc]
		if c < utf8.RuneSelf {
			if nDst == len(dst) {
				return nDst, nSrc, transform.ErrShortDst
			}
			nSrc++
			t.start = false
			switch {
			case c == '\n' && t.cr:
				t.cr = false // the line feed after a carriage return that was written
				continue
			case c == '\r':
				c, t.cr = '\n', true
			case c == '\f' || c == '\v':
				c, t.cr = '\n', false
			case c < ' ' && c != '\t' && c != '\n' || c == 0x7f:
				continue
			default:
				t.cr = false
			}
			dst[nDst] = c
			nDst++
			continue
		}
		if !atEOF && !utf8.FullRune(src[nSrc:]) {
			return nDst, nSrc, transform.ErrShortSrc
		}
		r, n := utf8.DecodeRune(src[nSrc:])
		if r == '\ufeff' && t.start {
			nSrc += n
			t.start = false
			continue
		}
		if nDst+utf8.UTFMax > len(dst) {
			return nDst, nSrc, transform.ErrShortDst
		}
		t.start, t.cr = false, false
		nDst += utf8.EncodeRune(dst[nDst:], r)
		nSrc += n
	}
	return nDst, nSrc, nil
}
