package pdf

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestShift(t *testing.T) {
	text := []rune("港务局的办公室每天早上七点开门，最后一班渡轮离开以后关门。需要许可证的人应当带两张照片和大门旁边的表格。")
	all := make([]int, len(text))
	moved := make([]rune, len(text))
	for i, c := range text {
		all[i], moved[i] = i, c-0x4A2C
	}
	assert.Equal(t, rune(0x4A2C), shift(moved, all))
	greek := []rune("Ἐν ἀρχῇ ἦν ὁ λόγος καὶ ὁ λόγος ἦν πρὸς τὸν θεόν")
	assert.Zero(t, shift(greek, all[:len(greek)]))
	assert.Zero(t, shift(moved, all[:4]), "too little to tell")
}

func TestScrambled(t *testing.T) {
	languages := "English Русский Ελληνικά עברית العربية ไทย हिन्दी ქართული Հայերեն 中文 日本語 한국어 Українська"
	assert.False(t, scrambled([]rune(languages)))
	assert.True(t, scrambled([]rune("мƹ̽Ϝа ϟୡйȥа ϜဎΉӍнୡ ϡࣧόဌѬ Ϝဎюಱ ϲೌҪϜ ϲҪϜȥА мਮѐԔ ϣķϙʆЖ һӍΉʽী ΰϸЇರ һӍΉী")))
}
