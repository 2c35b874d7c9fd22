// The jobs of blocks.h for one width of vectors. Included by a file that defines
//   NAME(x), TARGET, V and I (floats and words), W (numbers in V), MOST (rows of a tile), and LOAD, STORE, SET1, MUL, FMA (a*b+c),
//   HALVES (p), ILOAD, ISET1, FLOAT, LOW4, HIGH4 (codes of a word), DOT4 and DOT8 (sum, codes, four numbers), UNSIGNED8 (whether
//   DOT8 takes codes as they are, or less 128), CODE4 and CODE8 (word, place) with TABLES (what they need of a matrix).
#include <math.h>
#include <string.h>
#include "blocks.h"

#define INLINE static inline __attribute__((always_inline)) TARGET
#define EACH _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)

static int64_t first_row(const product_call *t, int64_t tile) { return tile * t->rows / t->tiles; }

static void divide(product_call *t, int64_t row) {
	t->tiles = (t->rows + MOST - 1) / MOST;
	int64_t most = (t->rows + t->tiles - 1) / t->tiles;
	t->tile = (most * row + LINE - 1) / LINE * LINE;
	// Tiles of a job stay near while the panels pass by; panels of a job are worth the call.
	t->chunk = (512 << 10) / t->tile;
	t->chunk = t->chunk < 1 ? 1 : t->chunk > t->tiles ? t->tiles : t->chunk;
	int64_t all = panels(t->m);
	t->part = (128 << 10) / (t->m->panel * t->chunk) + 1;
	if (t->part > all) t->part = all;
	t->parts = (all + t->part - 1) / t->part;
}

void NAME(plan_exact)(product_call *t) { divide(t, (t->m->in + t->m->in / t->m->group) * sizeof(float)); }
void NAME(plan_rounded)(product_call *t) { divide(t, t->m->in + t->m->in / t->m->group * 3 * sizeof(float)); }

// lay_exact writes a tile: numbers [in, rows], then the sums of their groups [groups, rows].
TARGET void NAME(lay_exact)(void *call, size_t tile) {
	const product_call *t = call;
	int64_t from = first_row(t, tile), rows = first_row(t, tile + 1) - from, K = t->m->in, G = t->m->group;
	float *to = (float *)(t->room + tile * t->tile), *sums = to + K * rows;
	for (int64_t r = 0; r < rows; r++) {
		const float *x = t->x + (from + r) * K;
		if (rows == 1) memcpy(to, x, K * sizeof(float));
		else
			for (int64_t k = 0; k < K; k++) to[k * rows + r] = x[k];
		for (int64_t g = 0; t->m->shifted && g < K / G; g++) {
			V sum = SET1(0);
			for (int64_t k = 0; k < G; k += W) sum = FMA(LOAD(x + g * G + k), SET1(1), sum);
			sums[g * rows + r] = SUM(sum);
		}
	}
}

// lay_rounded writes a tile: numbers of 8 bits [in/4, rows, 4], then for each group and row what sums begin with, the
// scale, and the sum of the numbers as they were: [groups, 3, rows].
TARGET void NAME(lay_rounded)(void *call, size_t tile) {
	const product_call *t = call;
	int64_t from = first_row(t, tile), rows = first_row(t, tile + 1) - from, K = t->m->in, G = t->m->group;
	int32_t *to = (int32_t *)(t->room + tile * t->tile), *rest = to + K / 4 * rows;
	int zero = t->m->bits == 4 ? 8 : UNSIGNED8 ? 128 : 0;
	for (int64_t g = 0; g < K / G; g++)
		for (int64_t r = 0; r < rows; r++) {
			const float *x = t->x + (from + r) * K + g * G;
			int32_t words[8], sum;
			float scale, total;
			ROUND(x, G, words, &sum, &scale, &total);
			for (int64_t j = 0; j < G / 4; j++) to[(g * G / 4 + j) * rows + r] = words[j];
			rest[(3 * g) * rows + r] = -zero * sum;
			memcpy(&rest[(3 * g + 1) * rows + r], &scale, 4);
			memcpy(&rest[(3 * g + 2) * rows + r], &total, 4);
		}
}

// scale_of and shift_of are those of group g for the rows of a panel from h on.
INLINE V scale_of(const matrix *m, const uint8_t *panel, int64_t g, int h) {
	const uint8_t *at = panel + m->scales;
	return m->halves ? HALVES(at + (g * PANEL + h) * 2) : LOAD((const float *)at + g * PANEL + h);
}

INLINE V shift_of(const matrix *m, const uint8_t *panel, int64_t g, int h, V scale) {
	const uint8_t *at = panel + m->shifts;
	return m->halves ? FMA(scale, SET1(m->bits == 4 ? 8 : 128), HALVES(at + (g * PANEL + h) * 2)) : LOAD((const float *)at + g * PANEL + h);
}

// A panel by a tile: rows, bits and the vectors of a group are constants where it is inlined.
INLINE void rounded(const int rows, const int bits, const int vectors, const matrix *m, const uint8_t *panel, const uint8_t *tile, float *y, int64_t ldy) {
	int64_t groups = m->in / m->group;
	const int words = vectors * (bits == 4 ? 2 : 1); // of four numbers, in a group
	for (int h = 0; h < PANEL; h += W) {
		const int32_t *x = (const int32_t *)tile, *rest = x + groups * words * rows;
		const uint8_t *codes = panel + h * 4;
		V sum[MOST];
		EACH sum[r] = SET1(0);
		for (int64_t g = 0; g < groups; g++) {
			I dot[MOST];
			EACH dot[r] = ISET1(rest[r]);
			_Pragma("GCC unroll 8") for (int v = 0; v < vectors; v++) {
				I w = ILOAD(codes);
				PREFETCH(codes);
				codes += LINE;
				if (bits == 4) {
					I low = LOW4(w), high = HIGH4(w);
					EACH dot[r] = DOT4(dot[r], low, ISET1(x[r]));
					EACH dot[r] = DOT4(dot[r], high, ISET1(x[rows + r]));
					x += 2 * rows;
				} else {
					EACH dot[r] = DOT8(dot[r], w, ISET1(x[r]));
					x += rows;
				}
			}
			V scale = scale_of(m, panel, g, h);
			EACH sum[r] = FMA(FLOAT(dot[r]), MUL(scale, SET1(((const float *)rest)[rows + r])), sum[r]);
			if (m->shifted) {
				V shift = shift_of(m, panel, g, h, scale);
				EACH sum[r] = FMA(shift, SET1(((const float *)rest)[2 * rows + r]), sum[r]);
			}
			rest += 3 * rows;
		}
		EACH STORE(y + r * ldy + h, sum[r]);
	}
}

INLINE void exact(const int rows, const int bits, const int vectors, const matrix *m, const uint8_t *panel, const uint8_t *tile, float *y, int64_t ldy) {
	int64_t groups = m->in / m->group;
	TABLES;
	for (int h = 0; h < PANEL; h += W) {
		const float *x = (const float *)tile, *sums = x + m->in * rows;
		const uint8_t *codes = panel + h * 4;
		V sum[MOST];
		EACH sum[r] = SET1(0);
		for (int64_t g = 0; g < groups; g++) {
			V dot[MOST];
			EACH dot[r] = SET1(0);
			_Pragma("GCC unroll 8") for (int v = 0; v < vectors; v++) {
				I w = ILOAD(codes);
				PREFETCH(codes);
				codes += LINE;
				_Pragma("GCC unroll 8") for (int i = 0; i < 32 / bits; i++) {
					int k = bits == 4 ? i / 2 + 4 * (i & 1) : i;
					V c = bits == 4 ? CODE4(w, i) : CODE8(w, i);
					EACH dot[r] = FMA(c, SET1(x[k * rows + r]), dot[r]);
				}
				x += 32 / bits * rows;
			}
			V scale = scale_of(m, panel, g, h);
			EACH sum[r] = FMA(dot[r], scale, sum[r]);
			if (m->shifted) {
				V shift = shift_of(m, panel, g, h, scale);
				EACH sum[r] = FMA(shift, SET1(sums[g * rows + r]), sum[r]);
			}
		}
		EACH STORE(y + r * ldy + h, sum[r]);
	}
}

typedef void (*NAME(panel_job))(const matrix *, const uint8_t *, const uint8_t *, float *, int64_t);

// One of each for the groups that there are: 32 of 4 and 8 bits, 16 of either.
#define PANEL_JOB(how, rows, bits, vectors)                                                                                                     \
	TARGET static void how##_##rows##_##bits##_##vectors(const matrix *m, const uint8_t *panel, const uint8_t *tile, float *y, int64_t ldy) { \
		how(rows, bits, vectors, m, panel, tile, y, ldy);                                                                                  \
	}
#define PANEL_JOBS(how, rows) PANEL_JOB(how, rows, 4, 4) PANEL_JOB(how, rows, 8, 8) PANEL_JOB(how, rows, 4, 2) PANEL_JOB(how, rows, 8, 4)
#define PLACES(how, rows) {how##_##rows##_4_4, how##_##rows##_8_8, how##_##rows##_4_2, how##_##rows##_8_4}

#if MOST == 8
#define ALL(X, how) X(how, 1) X(how, 2) X(how, 3) X(how, 4) X(how, 5) X(how, 6) X(how, 7) X(how, 8)
#define ALL_PLACES(how) PLACES(how, 1), PLACES(how, 2), PLACES(how, 3), PLACES(how, 4), PLACES(how, 5), PLACES(how, 6), PLACES(how, 7), PLACES(how, 8)
#else
#define ALL(X, how) X(how, 1) X(how, 2) X(how, 3) X(how, 4)
#define ALL_PLACES(how) PLACES(how, 1), PLACES(how, 2), PLACES(how, 3), PLACES(how, 4)
#endif
ALL(PANEL_JOBS, rounded)
ALL(PANEL_JOBS, exact)
static const NAME(panel_job) rounded_jobs[MOST][4] = {ALL_PLACES(rounded)}, exact_jobs[MOST][4] = {ALL_PLACES(exact)};

static void multiply(const product_call *t, size_t job, const NAME(panel_job) jobs[MOST][4]) {
	const matrix *m = t->m;
	int64_t N = m->out, chunk = job / t->parts * t->chunk, tiles = chunk + t->chunk < t->tiles ? chunk + t->chunk : t->tiles;
	int64_t from = job % t->parts * t->part, to = from + t->part < panels(m) ? from + t->part : panels(m);
	int form = 2 * (m->group == 16) + (m->bits == 8);
	float edge[MOST * PANEL];
	for (int64_t p = from; p < to; p++)
		for (int64_t i = chunk; i < tiles; i++) {
			int64_t row = first_row(t, i), rows = first_row(t, i + 1) - row, cols = N - p * PANEL;
			const uint8_t *panel = m->at + p * m->panel, *tile = t->room + i * t->tile;
			float *y = t->y + row * N + p * PANEL;
			if (cols >= PANEL) {
				jobs[rows - 1][form](m, panel, tile, y, N);
				continue;
			}
			jobs[rows - 1][form](m, panel, tile, edge, PANEL);
			for (int64_t r = 0; r < rows; r++) memcpy(y + r * N, edge + r * PANEL, cols * sizeof(float));
		}
}

void NAME(multiply_rounded)(void *call, size_t job) { multiply(call, job, rounded_jobs); }
void NAME(multiply_exact)(void *call, size_t job) { multiply(call, job, exact_jobs); }
