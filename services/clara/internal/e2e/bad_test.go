//go:build !race

package e2e_test

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"crypto/md5"
	"crypto/rc4"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	ingestv1 "github.com/clara-suite/clara/proto/gen/clara/ingest/v1"
)

// TestBadInput takes in a folder of files that are not what they should be. Each must be told of by name with its
// reason, and those that are good must arrive. CLARA_SLOW=1 adds a PDF of 5,000 pages and a text of 200 MB.
func TestBadInput(t *testing.T) {
	s := startSuite(t, "--ingest-ocr", "never", "--ingest-max-file-bytes", "300000000")
	dir := t.TempDir()
	cases := []struct {
		file, result string
		content      []byte
		reason       string // of the table, a pattern
	}{
		{"good.md", "done", []byte("# Good\n\nThis one is as it should be.\n"), ``},
		{"empty.txt", "failed", nil, `empty`},
		{"blank.txt", "failed", []byte("  \n\n\t \n"), `text`},
		{"truncated.pdf", "failed", pdf(2, nil)[:200], `(?i)pdf`},
		{"truncated.docx", "failed", docx("A letter.")[:300], `(?i)(zip|archive|docx|cut off|damaged)`},
		{"zero-pages.pdf", "failed", pdf(0, nil), `page`},
		{"encrypted.pdf", "failed", pdf(1, []byte("open sesame")), `--password`},
		{"picture.pdf", "failed", []byte("\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"), `(?i)png|image|picture`},
		{"letter.pdf", "done", docx("A letter that has the wrong name."), ``},
		{"program.exe", "failed", append([]byte("MZ\x90\x00\x03\x00\x00\x00"), make([]byte, 4096)...), `not read`},
		{"zip-bomb.docx", "failed", zipBomb(), `(?i)(large|limit|bytes|bomb|ratio|MiB|GiB)`},
		{"xml-bomb.docx", "failed", xmlBomb(), `(?i)(entit|xml|DTD|doctype)`},
		{"latin1.txt", "done", []byte("Der Fährmann übergibt die Schlüssel für das große Boot täglich pünktlich um fünf Uhr dem Wärter.\n"), ``},
		{"zip.bin", "failed", archive(map[string]string{"a.txt": "nothing of ours"}), `not read|archive`},
	}
	cases[12].content = latin1(cases[12].content)
	for _, c := range cases {
		require.NoError(t, os.WriteFile(filepath.Join(dir, c.file), c.content, 0o600))
	}
	r := s.run("ingest", dir, "-c", "bad")
	assert.Equal(t, 3, r.code, "done in part")
	for _, c := range cases {
		t.Run(c.file, func(t *testing.T) {
			row := row(r.out, c.file)
			require.NotEmpty(t, row, r.out)
			assert.Contains(t, row, " "+c.result+" ")
			assert.Regexp(t, c.reason, row)
			t.Log(row)
		})
	}
	s.sub(t, "with its password", func(t *testing.T) {
		out := s.ok("ingest", filepath.Join(dir, "encrypted.pdf"), "-c", "bad", "--password", "open sesame")
		assert.Contains(t, out, "1 done")
		r := s.run("ingest", filepath.Join(dir, "encrypted.pdf"), "-c", "other", "--password", "open barley")
		assert.Equal(t, 1, r.code)
		assert.Regexp(t, `(?i)password`, r.out)
	})
	s.sub(t, "a folder that is not there", func(t *testing.T) {
		r := s.run("ingest", filepath.Join(dir, "nowhere"))
		assert.Equal(t, 1, r.code)
		assert.Contains(t, r.err, "nowhere")
	})
	s.sub(t, "a file that may not be read", func(t *testing.T) {
		// A folder's listing and its files can disagree by the time they are read.
		other := t.TempDir()
		write(t, other, "there.md", "# There\n\nStays.\n")
		require.NoError(t, os.Symlink(filepath.Join(other, "gone.md"), filepath.Join(other, "link.md")))
		r := s.run("ingest", filepath.Join(other, "there.md"), filepath.Join(other, "gone.md"))
		assert.Equal(t, 1, r.code)
		assert.Contains(t, r.err, "gone.md")
		assert.Contains(t, s.ok("ingest", other), "1 done")
	})
	if os.Getenv("CLARA_SLOW") == "" {
		t.Log("files of 5,000 pages and 200 MB are read if CLARA_SLOW is set")
		return
	}
	s.sub(t, "5,000 pages", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "long.pdf")
		require.NoError(t, os.WriteFile(path, pdf(5000, nil), 0o600))
		t.Log(s.ok("ingest", path, "-c", "slow"))
		assert.EqualValues(t, 5000, s.await(t, "slow", "long.pdf", ingestv1.Document_STATE_READY).PageCount)
	})
	s.sub(t, "200 MB of text", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "large.txt")
		f, err := os.Create(path)
		require.NoError(t, err)
		line := strings.Repeat("The quay is long and the ship is late. ", 8) + "\n\n"
		for n := 0; n < 200_000_000; n += len(line) {
			_, err := f.WriteString(line)
			require.NoError(t, err)
		}
		require.NoError(t, f.Close())
		r := s.run("ingest", path, "-c", "slow")
		t.Log(r.code, r.out, r.err)
		assert.Contains(t, r.out, "large.txt")
	})
}

// row is the line of a table that begins with a file's name.
func row(table, file string) string {
	for _, line := range strings.Split(table, "\n") {
		if strings.HasPrefix(line, file+" ") {
			return line
		}
	}
	return ""
}

// latin1 turns UTF-8 into ISO 8859-1.
func latin1(utf8 []byte) []byte {
	var out []byte
	for _, r := range string(utf8) {
		out = append(out, byte(r))
	}
	return out
}

// archive is a zip file.
func archive(files map[string]string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range files {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write([]byte(text))
		}
		if err != nil {
			panic(err) // a buffer takes everything
		}
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

const contentTypes = `<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>`
const packageRels = `<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>`

// docx is a document of one paragraph.
func docx(text string) []byte {
	return archive(map[string]string{"[Content_Types].xml": contentTypes, "_rels/.rels": packageRels,
		"word/document.xml": `<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>` + text + `</w:t></w:r></w:p></w:body></w:document>`})
}

// zipBomb is a document of 3 MB that unpacks to 3 GB: the same compressed blanks, a thousand times over.
func zipBomb() []byte {
	var blanks bytes.Buffer
	w, err := flate.NewWriter(&blanks, flate.BestCompression)
	if err == nil {
		_, err = w.Write(bytes.Repeat([]byte(" "), 3<<20))
	}
	if err == nil {
		err = w.Close()
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range map[string]string{"[Content_Types].xml": contentTypes, "_rels/.rels": packageRels, "word/document.xml": "<w/>"} {
		var w io.Writer
		if err == nil {
			w, err = z.Create(name)
		}
		if err == nil {
			_, err = io.WriteString(w, text)
		}
	}
	sum := crc32.ChecksumIEEE(bytes.Repeat([]byte(" "), 3<<20))
	for i := range 1000 {
		var w io.Writer
		if err == nil {
			w, err = z.CreateRaw(&zip.FileHeader{Name: fmt.Sprintf("word/media/%d.xml", i), Method: zip.Deflate, CRC32: sum, CompressedSize64: uint64(blanks.Len()), UncompressedSize64: 3 << 20})
		}
		if err == nil {
			_, err = w.Write(blanks.Bytes())
		}
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		panic(err) // a buffer takes everything
	}
	return b.Bytes()
}

// xmlBomb is a document whose entities grow tenfold nine times.
func xmlBomb() []byte {
	dtd := `<!ENTITY a0 "boom">`
	for i := range 9 {
		dtd += fmt.Sprintf(`<!ENTITY a%d "%s">`, i+1, strings.Repeat(fmt.Sprintf("&a%d;", i), 10))
	}
	return archive(map[string]string{"[Content_Types].xml": contentTypes, "_rels/.rels": packageRels,
		"word/document.xml": `<?xml version="1.0"?><!DOCTYPE d [` + dtd + `]><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>&a9;</w:t></w:r></w:p></w:body></w:document>`})
}

// pdf is a document with a line of text on each page, encrypted by the standard handler (revision 2) if a password is given.
func pdf(pages int, password []byte) []byte {
	var b bytes.Buffer
	offsets := []int{0}
	id := []byte("0123456789abcdef")
	var key []byte
	object := func(text string) {
		offsets = append(offsets, b.Len())
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", len(offsets)-1, text)
	}
	crypt := func(number int, data []byte) []byte {
		if key == nil {
			return data
		}
		sum := md5.Sum(append(append([]byte{}, key...), byte(number), byte(number>>8), byte(number>>16), 0, 0))
		return rc(sum[:10], data)
	}
	var o, u []byte
	if password != nil {
		owner := md5.Sum(pad(password))
		o = rc(owner[:5], pad(password))
		sum := md5.Sum(append(append(append([]byte{}, pad(password)...), o...), append([]byte{0xFC, 0xFF, 0xFF, 0xFF}, id...)...))
		key = sum[:5]
		u = rc(key, pad(nil))
	}
	b.WriteString("%PDF-1.4\n")
	var kids strings.Builder
	for i := range pages {
		fmt.Fprintf(&kids, "%d 0 R ", 4+2*i)
	}
	object("<</Type/Catalog/Pages 2 0 R>>")
	object(fmt.Sprintf("<</Type/Pages/Count %d/Kids[%s]>>", pages, kids.String()))
	object("<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>")
	for i := range pages {
		object(fmt.Sprintf("<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F 3 0 R>>>>/Contents %d 0 R>>", 5+2*i))
		// Not in the same place on every page: that would be a running title.
		text := crypt(5+2*i, []byte(fmt.Sprintf("BT /F 12 Tf 72 %d Td (The quay of page %d has %d bollards and one crane.) Tj 0 -60 Td (%s) Tj ET",
			700-i*37%400, i+1, i*3+1, strings.Repeat(fmt.Sprintf("Ship %d is late. ", i*i), 2+i%3))))
		object(fmt.Sprintf("<</Length %d>>stream\n%s\nendstream", len(text), text))
	}
	encrypt := ""
	if password != nil {
		object(fmt.Sprintf("<</Filter/Standard/V 1/R 2/P -4/O<%x>/U<%x>>>", o, u))
		encrypt = fmt.Sprintf("/Encrypt %d 0 R/ID[<%x><%x>]", len(offsets)-1, id, id)
	}
	xref := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(offsets))
	for _, at := range offsets[1:] {
		fmt.Fprintf(&b, "%010d 00000 n \n", at)
	}
	fmt.Fprintf(&b, "trailer<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF\n", len(offsets), encrypt, xref)
	return b.Bytes()
}

// pad makes a password 32 bytes long as PDF does.
func pad(password []byte) []byte {
	filler := []byte("\x28\xBF\x4E\x5E\x4E\x75\x8A\x41\x64\x00\x4E\x56\xFF\xFA\x01\x08\x2E\x2E\x00\xB6\xD0\x68\x3E\x80\x2F\x0C\xA9\xFE\x64\x53\x69\x7A")
	return append(append([]byte{}, password...), filler...)[:32]
}

func rc(key, data []byte) []byte {
	c, err := rc4.NewCipher(key)
	if err != nil {
		panic(err) // the key has a length that is allowed
	}
	out := make([]byte, len(data))
	c.XORKeyStream(out, data)
	return out
}
