//go:build cgo

// Matrices in blocks, from the form of files to panels.

#include <immintrin.h>
#include <math.h>
#include <string.h>
#include "blocks.h"

#define HALF __attribute__((target("f16c")))

// is_half reports whether all are halves.
HALF static int is_half(const float *x, int64_t n) {
	for (int64_t i = 0; i < n; i++)
		if (_cvtsh_ss(_cvtss_sh(x[i], 0)) != x[i]) return 0;
	return 1;
}

// rest is what is left of a shift without zero * scale.
static float rest_of(float shift, float scale, int bits) { return fmaf(-(bits == 4 ? 8.f : 128.f), scale, shift); }

HALF static int rests_are_half(const float *shift, const float *scale, int64_t n, int bits) {
	for (int64_t i = 0; i < n; i++) {
		float rest = rest_of(shift[i], scale[i], bits);
		if (_cvtsh_ss(_cvtss_sh(rest, 0)) != rest || fmaf(bits == 4 ? 8.f : 128.f, scale[i], rest) != shift[i]) return 0;
	}
	return 1;
}

int plan_blocks(const source *s, matrix *m) {
	if ((s->bits != 4 && s->bits != 8) || (s->group != 16 && s->group != 32) || s->in <= 0 || s->out <= 0 || s->in % s->group) return 0;
	int64_t groups = s->in / s->group, n = s->out * groups;
	*m = (matrix){.out = s->out, .in = s->in, .group = s->group, .bits = s->bits, .shifted = s->shift != NULL};
	if (s->halved) {
		// The shift makes up for the zeros of the two: what is left of it is the matrix' own.
		if (s->bits != 8 || !s->shift) return 0;
		m->shifted = 0;
		for (int64_t i = 0; i < n; i++) {
			if (s->scale[i] != 16 * s->scale[n + i]) return 0;
			m->shifted |= s->shift[i] != 8 * s->scale[n + i];
		}
		m->halves = !m->shifted && is_half(s->scale + n, n);
	} else {
		m->halves = is_half(s->scale, n) && (!s->shift || rests_are_half(s->shift, s->scale, n, s->bits));
	}
	m->head = LINE * (1 + m->shifted);
	m->codes = PANEL * s->group * s->bits / 8;
	m->stride = m->head + m->codes * (1 + m->halves);
	m->panel = (groups + m->halves) / (1 + m->halves) * m->stride;
	return 1;
}

// apart spreads four codes of 4 bits over four bytes.
static uint32_t apart(uint32_t x) {
	x = (x | x << 8) & 0x00FF00FF;
	return (x | x << 4) & 0x0F0F0F0F;
}

static uint32_t word32(const uint8_t *p) {
	uint32_t x;
	memcpy(&x, p, 4);
	return x;
}

static uint32_t word16(const uint8_t *p) {
	uint16_t x;
	memcpy(&x, p, 2);
	return x;
}

// put stores a scale or shift of group g and row r.
HALF static void put(const matrix *m, uint8_t *numbers, int64_t g, int64_t r, float x) {
	if (m->halves) {
		uint16_t half = _cvtss_sh(x, 0);
		memcpy(numbers + ((g & 1) * PANEL + r) * 2, &half, 2);
	} else {
		memcpy(numbers + r * 4, &x, 4);
	}
}

void lay_blocks(const source *s, const matrix *m) {
	int64_t groups = s->in / s->group, words = s->in * s->bits / 32, each = words / groups; // of a row, and of a group
	for (int64_t p = 0; p < panels(m); p++) {
		uint8_t *panel = m->at + p * m->panel;
		memset(panel, 0, m->panel);
		int64_t rows = s->out - p * PANEL < PANEL ? s->out - p * PANEL : PANEL;
		for (int64_t r = 0; r < rows; r++) {
			int64_t n = p * PANEL + r;
			const uint8_t *codes = s->codes + n * words * (s->halved ? 2 : 4), *low = codes + s->out * words * 2;
			for (int64_t i = 0; i < words; i++) {
				int64_t g = i / each;
				uint32_t w;
				if (s->halved) {
					w = apart(word16(codes + 2 * i)) << 4 | apart(word16(low + 2 * i));
				} else {
					w = word32(codes + 4 * i);
					if (s->bits == 4) w = apart(w & 0xFFFF) | apart(w >> 16) << 4;
				}
				memcpy(codes_of(m, head_of(m, panel, g), g) + (i % each * PANEL + r) * 4, &w, 4);
			}
			for (int64_t g = 0; g < groups; g++) {
				float scale = s->scale[(n + (s->halved ? s->out : 0)) * groups + g];
				uint8_t *head = head_of(m, panel, g);
				put(m, head, g, r, scale);
				if (!m->shifted) continue;
				float shift = s->shift[n * groups + g];
				if (s->halved) shift -= 8 * scale;
				put(m, head + LINE, g, r, m->halves ? rest_of(shift, scale, s->bits) : shift);
			}
		}
	}
}
