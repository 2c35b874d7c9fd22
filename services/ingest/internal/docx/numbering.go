package docx

import (
	"strconv"
	"strings"

	"github.com/clara-suite/clara/services/ingest/internal/ooxml"
)

const levels = 9

// level is one level of a list's definition.
type level struct {
	start   int
	format  string
	text    string
	style   string
	legal   bool
	restart int // the level that restarts this one, -1 for any above
}

// abstract is a list's definition with the counters of its levels: lists that
// share one count on where the other stopped.
type abstract struct {
	levels [levels]level
	count  [levels]int
	begun  [levels]bool
	link   string
}

// list is a use of a definition.
type list struct {
	def *abstract
	// own are the levels that the use defines anew.
	own map[int]level
	// start are the numbers that levels start again with at the first item.
	start map[int]int
	used  map[int]bool
}

type numbering map[string]*list

func readNumbering(root *ooxml.Node, st styles) numbering {
	defs := map[string]*abstract{}
	out := numbering{}
	if root == nil {
		return out
	}
	links := map[string]*abstract{}
	for _, n := range root.Kids {
		if n.Name != "w:abstractNum" {
			continue
		}
		a := &abstract{}
		for i := range a.levels {
			a.levels[i] = level{start: 1, restart: -1}
		}
		for _, k := range n.Kids {
			if k.Name == "w:lvl" {
				if i, l, ok := readLevel(k); ok {
					a.levels[i] = l
				}
			}
		}
		a.link, _ = n.Val("w:numStyleLink")
		if s, ok := n.Val("w:styleLink"); ok {
			links[s] = a
		}
		defs[n.Attr("w:abstractNumId")] = a
	}
	for _, n := range root.Kids {
		if n.Name != "w:num" {
			continue
		}
		id, _ := n.Val("w:abstractNumId")
		def := defs[id]
		if def == nil {
			continue
		}
		if def.link != "" {
			if d := links[def.link]; d != nil {
				def = d
			}
		}
		l := &list{def: def, own: map[int]level{}, start: map[int]int{}, used: map[int]bool{}}
		for _, o := range n.Kids {
			if o.Name != "w:lvlOverride" {
				continue
			}
			i, err := strconv.Atoi(o.Attr("w:ilvl"))
			if err != nil || i < 0 || i >= levels {
				continue
			}
			if k := o.Kid("w:lvl"); k != nil {
				if _, lv, ok := readLevel(k); ok {
					l.own[i] = lv
				}
			}
			if v, ok := o.Val("w:startOverride"); ok {
				l.start[i], _ = strconv.Atoi(v)
			}
		}
		out[n.Attr("w:numId")] = l
	}
	return out
}

func readLevel(n *ooxml.Node) (int, level, bool) {
	i, err := strconv.Atoi(n.Attr("w:ilvl"))
	if err != nil || i < 0 || i >= levels {
		return 0, level{}, false
	}
	l := level{start: 1, restart: -1, legal: n.On("w:isLgl")}
	if v, ok := n.Val("w:start"); ok {
		l.start, _ = strconv.Atoi(v)
	}
	l.format, _ = n.Val("w:numFmt")
	if n.Kid("w:numFmt") == nil { // a custom format stands in AlternateContent
		if f := n.Find("w:numFmt"); f != nil {
			l.format = f.Attr("w:val")
		}
	}
	l.text, _ = n.Val("w:lvlText")
	l.style, _ = n.Val("w:pStyle")
	if v, ok := n.Val("w:lvlRestart"); ok {
		l.restart, _ = strconv.Atoi(v)
	}
	return i, l, true
}

func (l *list) level(i int) level {
	if lv, ok := l.own[i]; ok {
		return lv
	}
	return l.def.levels[i]
}

// levelOf returns the level that belongs to the paragraph style, 0 if none does.
func (l *list) levelOf(style string) int {
	for i := range levels {
		if l.level(i).style == style {
			return i
		}
	}
	return 0
}

// next counts one item at the level and returns its label, "" for a bullet.
func (l *list) next(lvl int) string {
	d := l.def
	if start, ok := l.start[lvl]; ok && !l.used[lvl] {
		d.begun[lvl], d.count[lvl] = true, start
	} else if !d.begun[lvl] {
		d.begun[lvl], d.count[lvl] = true, l.level(lvl).start
	} else {
		d.count[lvl]++
	}
	l.used[lvl] = true
	for i := range lvl {
		if !d.begun[i] {
			d.begun[i], d.count[i] = true, l.level(i).start
		}
	}
	for i := lvl + 1; i < levels; i++ {
		if r := l.level(i).restart; r < 0 || r > lvl {
			d.begun[i] = false
		}
	}
	return l.label(lvl)
}

func (l *list) label(lvl int) string {
	at := l.level(lvl)
	if at.format == "bullet" {
		return ""
	}
	var b strings.Builder
	for i := 0; i < len(at.text); i++ {
		c := at.text[i]
		if c == '%' && i+1 < len(at.text) && at.text[i+1] >= '1' && at.text[i+1] <= '9' {
			k := int(at.text[i+1] - '1')
			format := l.level(k).format
			if at.legal && format != "decimalZero" {
				format = "decimal"
			}
			b.WriteString(Number(l.def.count[k], format))
			i++
			continue
		}
		b.WriteByte(c)
	}
	return strings.TrimSpace(b.String())
}

// Number writes n in a number format of the standard (ST_NumberFormat).
// Formats that it does not know are decimal.
func Number(n int, format string) string {
	switch format {
	case "none":
		return ""
	case "lowerLetter":
		return strings.ToLower(letters(n))
	case "upperLetter":
		return letters(n)
	case "lowerRoman":
		return strings.ToLower(roman(n))
	case "upperRoman":
		return roman(n)
	case "decimalZero":
		if n >= 0 && n < 10 {
			return "0" + strconv.Itoa(n)
		}
	case "ordinal":
		return strconv.Itoa(n) + ordinalSuffix(n)
	case "decimalEnclosedCircle", "decimalEnclosedCircleChinese":
		if n >= 1 && n <= 20 {
			return string(rune('①' + n - 1))
		}
	case "chineseCounting", "chineseCountingThousand", "taiwaneseCounting", "taiwaneseCountingThousand", "ideographDigital",
		"japaneseCounting", "japaneseDigitalTenThousand", "koreanCounting":
		return chinese(n)
	}
	return strconv.Itoa(n)
}

// letters counts A..Z, AA, BB.. as word processors do.
func letters(n int) string {
	if n < 1 || n > 26*30 {
		return strconv.Itoa(n)
	}
	return strings.Repeat(string(rune('A'+(n-1)%26)), (n-1)/26+1)
}

func roman(n int) string {
	if n < 1 || n > 9999 {
		return strconv.Itoa(n)
	}
	var b strings.Builder
	for _, s := range []struct {
		n int
		s string
	}{{1000, "M"}, {900, "CM"}, {500, "D"}, {400, "CD"}, {100, "C"}, {90, "XC"}, {50, "L"}, {40, "XL"}, {10, "X"}, {9, "IX"}, {5, "V"}, {4, "IV"}, {1, "I"}} {
		for n >= s.n {
			b.WriteString(s.s)
			n -= s.n
		}
	}
	return b.String()
}

func ordinalSuffix(n int) string {
	if n%100 >= 11 && n%100 <= 13 {
		return "th"
	}
	switch n % 10 {
	case 1:
		return "st"
	case 2:
		return "nd"
	case 3:
		return "rd"
	}
	return "th"
}

// chinese writes 0 to 9999 as it is read: 12 is 十二, 105 is 一百零五.
func chinese(n int) string {
	if n < 0 || n > 9999 {
		return strconv.Itoa(n)
	}
	digit := []rune("零一二三四五六七八九")
	if n < 10 {
		return string(digit[n])
	}
	var b strings.Builder
	zero := false
	for _, u := range []struct {
		n int
		s string
	}{{1000, "千"}, {100, "百"}, {10, "十"}, {1, ""}} {
		d := n / u.n % 10
		switch {
		case d == 0:
			zero = b.Len() > 0
		default:
			if zero {
				b.WriteRune('零')
				zero = false
			}
			if !(u.n == 10 && d == 1 && b.Len() == 0) {
				b.WriteRune(digit[d])
			}
			b.WriteString(u.s)
		}
	}
	return b.String()
}
