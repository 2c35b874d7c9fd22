package text_test

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/korean"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/traditionalchinese"
	"golang.org/x/text/encoding/unicode"

	"github.com/clara-suite/clara/libs/clara"
	"github.com/clara-suite/clara/services/ingest/internal/doc"
	"github.com/clara-suite/clara/services/ingest/internal/text"
)

const (
	zh = "公司的假期政策规定，每位员工每年享有二十天带薪休假。申请应当提前两周提交给部门经理，并抄送人事部门。"
	tw = "公司的假期政策規定，每位員工每年享有二十天帶薪休假。申請應當提前兩週提交給部門經理，並抄送人事部門。"
	ja = "休暇の規則について説明します。社員は毎年二十日の有給休暇を取ることができます。申請は二週間前までに行ってください。"
	ko = "휴가 규정에 대하여 설명합니다. 직원은 매년 이십 일의 유급 휴가를 사용할 수 있습니다. 신청은 두 주 전에 하십시오."
	de = "Für jede Überstunde gibt es Ausgleich. Die Anträge müssen rechtzeitig bei der Geschäftsführung eingehen, größere außerdem schriftlich."
	ru = "Правила отпуска: каждый сотрудник имеет право на двадцать дней оплачиваемого отпуска в год. Заявление подаётся за две недели."
)

func read(t *testing.T, b []byte) string {
	t.Helper()
	d, err := text.Reader{}.Read(context.Background(), bytes.NewReader(b), int64(len(b)), doc.Options{})
	require.NoError(t, err)
	return d.Pages[0].Markdown
}

func TestEncodings(t *testing.T) {
	for _, c := range []struct {
		name string
		enc  encoding.Encoding
		text string
	}{
		{"utf-8", encoding.Nop, zh},
		{"utf-8 with a mark", unicode.UTF8BOM, zh},
		{"utf-16le with a mark", unicode.UTF16(unicode.LittleEndian, unicode.UseBOM), de},
		{"utf-16be with a mark", unicode.UTF16(unicode.BigEndian, unicode.UseBOM), zh},
		{"utf-16le", unicode.UTF16(unicode.LittleEndian, unicode.IgnoreBOM), de},
		{"utf-16be", unicode.UTF16(unicode.BigEndian, unicode.IgnoreBOM), de},
		{"gbk", simplifiedchinese.GBK, zh},
		{"gb18030", simplifiedchinese.GB18030, zh},
		{"big5", traditionalchinese.Big5, tw},
		{"shift-jis", japanese.ShiftJIS, ja},
		{"euc-jp", japanese.EUCJP, ja},
		{"euc-kr", korean.EUCKR, ko},
		{"windows-1252", charmap.Windows1252, de},
		{"windows-1252, few words", charmap.Windows1252, "Grüße aus Köln, schöne Äpfel und Öl für die Straße."},
		{"iso-8859-1, fewer words", charmap.ISO8859_1, "Später müsste Jürgen größere Bögen prüfen."},
		{"gbk, few words", simplifiedchinese.GBK, "北京的天气今天很好。"},
		{"windows-1251", charmap.Windows1251, ru},
		{"koi8-r", charmap.KOI8R, ru},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := c.enc.NewEncoder().String(c.text)
			require.NoError(t, err)
			assert.Equal(t, c.text, read(t, []byte(b)))
		})
	}
	t.Run("foreign bytes come late", func(t *testing.T) {
		b, err := simplifiedchinese.GBK.NewEncoder().String(zh)
		require.NoError(t, err)
		lead := strings.Repeat("plain lines\n", 20_000)
		assert.Equal(t, lead+zh, read(t, []byte(lead+b)))
	})
	t.Run("a broken character", func(t *testing.T) {
		assert.Equal(t, zh+"\ufffd"+zh, read(t, []byte(zh+"\xff"+zh)))
	})
}

func TestNormalized(t *testing.T) {
	assert.Equal(t, "a\nb\nc\n\nd\te", read(t, []byte("\n\na\r\nb\rc\f\nd\x00\te\x07\n\n")))
}

func TestRefused(t *testing.T) {
	for _, c := range []struct{ name, text string }{{"blank", " \n\t\n"}, {"too large", strings.Repeat("x", 2000)}} {
		t.Run(c.name, func(t *testing.T) {
			_, err := text.Reader{}.Read(context.Background(), strings.NewReader(c.text), int64(len(c.text)), doc.Options{Limits: doc.Limits{MaxText: 1000}})
			assert.Equal(t, clara.Invalid, clara.KindOf(err), err)
		})
	}
}

// large is a text of a given size without holding it.
type large struct{ size int64 }

func (l large) ReadAt(b []byte, off int64) (int, error) {
	n := int(min(int64(len(b)), l.size-off))
	for i := range max(n, 0) {
		b[i] = "one line of text\n"[(off+int64(i))%17]
	}
	if n < len(b) {
		return max(n, 0), io.EOF
	}
	return n, nil
}

func TestReaderIsFlat(t *testing.T) {
	const size = 64 << 20
	in, name, err := text.NewReader(large{size}, size)
	require.NoError(t, err)
	assert.Equal(t, "utf-8", name)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	n, err := io.Copy(io.Discard, in)
	require.NoError(t, err)
	runtime.ReadMemStats(&after)
	assert.Equal(t, int64(size), n)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20))
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("abc\r\n"))
	f.Add([]byte("\xff\xfea\x00b"))
	f.Add([]byte("\xb9\xab\xcb\xbe\xb5\xc4\xbc\xd9"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := text.Reader{}.Read(context.Background(), bytes.NewReader(b), int64(len(b)), doc.Options{})
		if err == nil && strings.ToValidUTF8(d.Pages[0].Markdown, "") != d.Pages[0].Markdown {
			t.Fatal("the text is not UTF-8")
		}
	})
}
