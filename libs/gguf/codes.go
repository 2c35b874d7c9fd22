package gguf

import "encoding/binary"

// Codes describes how a quantised format holds its weights: w = scale * (code - Zero) + shift for each group
// of Group weights.
type Codes struct {
	Bits    int  // of a code: 4, 5, 6 or 8
	Group   int  // weights that share a scale: 16 or 32
	Zero    int  // the code in the middle of the range
	Shifted bool // whether there is a shift, else it is 0
}

// Codes returns the description of a quantised format; ok is false for others.
func (t Type) Codes() (c Codes, ok bool) {
	switch t {
	case Q4_0:
		return Codes{4, 32, 8, false}, true
	case Q4_1, Q4_K:
		return Codes{4, 32, 8, true}, true
	case Q5_0:
		return Codes{5, 32, 16, false}, true
	case Q5_1, Q5_K:
		return Codes{5, 32, 16, true}, true
	case Q6_K:
		return Codes{6, 16, 32, false}, true
	case Q8_0:
		return Codes{8, 32, 128, false}, true
	}
	return Codes{}, false
}

// Split takes a block of a quantised format apart: its codes in the order of the weights, and the scale and
// shift of each group. The slices hold a block's weights and groups; shift is not touched where there is none.
// The figures are exact but for shift, which is rounded to float32 once.
func (t Type) Split(block []byte, codes []byte, scale, shift []float32) {
	switch t {
	case Q4_0, Q4_1:
		at := 2
		if t == Q4_1 {
			at = 4
		}
		scale[0] = half(block)
		for j, q := range block[at : at+16] {
			codes[j], codes[j+16] = q&15, q>>4
		}
		if t == Q4_1 {
			shift[0] = half(block[2:]) + 8*scale[0]
		}
	case Q5_0, Q5_1:
		at := 2
		if t == Q5_1 {
			at = 4
		}
		scale[0] = half(block)
		high := binary.LittleEndian.Uint32(block[at:])
		for j, q := range block[at+4 : at+20] {
			codes[j], codes[j+16] = q&15|byte(high>>j<<4)&16, q>>4|byte(high>>(j+12))&16
		}
		if t == Q5_1 {
			shift[0] = half(block[2:]) + 16*scale[0]
		}
	case Q8_0:
		scale[0] = half(block)
		for j, q := range block[2:34] {
			codes[j] = q ^ 0x80 // a signed byte and 128
		}
	case Q4_K, Q5_K:
		d, dmin := half(block), half(block[2:])
		zero := float32(8)
		if t == Q5_K {
			zero = 16
		}
		for j := range 8 {
			s, m := scaleMin(j, block[4:16])
			scale[j] = d * s
			shift[j] = zero*scale[j] - dmin*m
		}
		if t == Q4_K {
			for i, q := range block[16:144] {
				at := i/32*64 + i%32
				codes[at], codes[at+32] = q&15, q>>4
			}
			return
		}
		high := block[16:48]
		for i, q := range block[48:176] {
			j, l := i/32, i%32
			h := high[l] >> (2 * j)
			codes[64*j+l], codes[64*j+l+32] = q&15|h&1<<4, q>>4|h&2<<3
		}
	case Q6_K:
		d := half(block[208:])
		for i := range scale {
			scale[i] = d * float32(int8(block[192+i]))
		}
		for n := range 2 {
			low, high, out := block[64*n:64*n+64], block[128+32*n:160+32*n], codes[128*n:128*n+128]
			for l, h := range high {
				out[l], out[l+32] = low[l]&15|h&3<<4, low[l+32]&15|h>>2&3<<4
				out[l+64], out[l+96] = low[l]>>4|h>>4&3<<4, low[l+32]>>4|h>>6<<4
			}
		}
	}
}
