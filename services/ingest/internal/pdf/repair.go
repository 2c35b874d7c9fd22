package pdf

import (
	"cmp"
	"maps"
	"slices"
	"unicode"
)

// commonHanzi are the characters that Chinese text is made of in the first
// place: each text has half of its characters from among them.
const commonHanzi = "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里" +
	"用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实" +
	"日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美" +
	"相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水" +
	"名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期" +
	"市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色" +
	"路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运" +
	"說時會來為國個們這過發後經對學現開關進還種無實長問間動體產業東與從將應點種書機當見話給變電"

// unrelated reports characters of alphabets that stand beside each other in no
// text, unlike letters, punctuation and what is written in China, Japan and Korea.
func unrelated(c rune) bool {
	return c >= 0x0400 && c < 0x2E80 && !(c >= 0x1100 && c < 0x1200) && !(c >= 0x2000 && c < 0x2070) || c >= 0xA4D0 && c < 0xAC00
}

// repair puts right the characters for which the file has no meaning. Some
// programs leave parts out of a font's table of characters, and pdfium does not
// read all tables that older versions of Ghostscript have written. The number
// of the glyph is then all there is. The glyphs of Chinese fonts are mostly in
// the order of Unicode, so that all numbers are off by the same distance: the
// one at which common characters come out. It returns how many characters stay
// without a meaning.
func (r *pageReader) repair(tp uint64, chars []rune) int {
	rows := map[rune]bool{}
	for _, c := range chars {
		if unrelated(c) {
			rows[c>>8] = true
		}
	}
	const scripts = 5 // more than a text mixes
	if len(rows) < scripts {
		return 0
	}
	var lost []int
	for i, c := range chars {
		if c > 0xFF && c < 0x9FFF && r.callOK(fnTextMapError, tp, uint64(i)) {
			lost = append(lost, i)
		}
	}
	told := len(lost) > 0
	if !told {
		// No word from pdfium: then what cannot stand beside the rest, if it
		// can be put right; a list of languages is no fault.
		for i, c := range chars {
			if unrelated(c) {
				lost = append(lost, i)
			}
		}
	}
	by := shift(chars, lost)
	switch {
	case by == 0 && (told || scrambled(chars)):
		return len(lost)
	case by == 0:
		return 0
	}
	left := 0
	for _, i := range lost {
		if c := chars[i] + by; c >= 0x4E00 && c <= 0x9FFF {
			chars[i] = c
		} else {
			left++
		}
	}
	return left
}

// scrambled reports text whose words mix alphabets: a list of languages has
// many, but not within its words.
func scrambled(chars []rune) bool {
	words, mixed := 0, 0
	var first rune
	mixes := false
	end := func() {
		if first != 0 {
			words++
		}
		if mixes {
			mixed++
		}
		first, mixes = 0, false
	}
	for _, c := range chars {
		if isBreak(c) {
			end()
			continue
		}
		// Rows of 256 are one alphabet each; Greek goes on in another one.
		if row := c >> 8; c >= 0x0370 && unicode.IsLetter(c) && (c < 0x1E00 || c > 0x1FFF) {
			mixes = mixes || first != 0 && first != row
			first = row
		}
	}
	end()
	return words >= 10 && mixed*4 > words
}

// shift returns the distance at which the given characters are common Chinese
// ones, 0 if there is none.
func shift(chars []rune, lost []int) rune {
	count := map[rune]int{}
	for _, i := range lost {
		count[chars[i]]++
	}
	const least = 6
	if len(lost) < least {
		return 0
	}
	order := slices.SortedFunc(maps.Keys(count), func(a, b rune) int { return cmp.Or(-cmp.Compare(count[a], count[b]), cmp.Compare(a, b)) })
	known := map[rune]bool{}
	for _, c := range commonHanzi {
		known[c] = true
	}
	var best rune
	most, kinds := 0, 0
	for _, c := range order[:min(len(order), 8)] {
		for common := range known {
			by := common - c
			n, kind := 0, 0
			for k, m := range count {
				if known[k+by] {
					n += m
					kind++
				}
			}
			if n > most || n == most && by < best {
				best, most, kinds = by, n, kind
			}
		}
	}
	// In Chinese texts about three fifths of the characters are common, and half
	// of the different ones; the letters of an alphabet can fall on common ones by
	// chance, but only few different ones do.
	if most*5 < len(lost)*2 || kinds*3 < len(count) {
		return 0
	}
	return best
}
