// The jobs of blocks.h for one width of vectors. Included by a file that defines
//   NAME(x), TARGET, V and I (floats and words), W (numbers in V), MOST (rows of a tile), WIDE and WIDE_V (rows and vectors of one of floats),
//   LOAD, STORE, SET1, MUL, FMA (a*b+c), SUM, HALVES (p), ILOAD, ISET1, FLOAT, PREFETCH, LOW4 and HIGH4 (codes of a vector), DOT4 and
//   DOT8 (sum, codes, four numbers), UNSIGNED8 (whether DOT8 takes codes as they are, or less 128), CODE4 and CODE8 (vector, place)
//   with TABLES (what they need), and ROUND (numbers of a group, how many, words of 8 bits, their sum, their scale, the sum before).
#include <math.h>
#include <string.h>
#include "blocks.h"

#define INLINE static inline __attribute__((always_inline)) TARGET
#define EACH _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++)

static int64_t first_row(const product_call *t, int64_t tile) { return tile * t->rows / t->tiles; }

static void divide(product_call *t, int64_t most_rows, int64_t row) {
	t->tiles = (t->rows + most_rows - 1) / most_rows;
	int64_t most = (t->rows + t->tiles - 1) / t->tiles;
	t->tile = (most * row + LINE - 1) / LINE * LINE;
	// Tiles of a job stay near while the panels pass by; panels of a job are worth the call, and jobs are of one size.
	t->chunk = (512 << 10) / t->tile;
	t->chunk = t->chunk < 1 ? 1 : t->chunk > t->tiles ? t->tiles : t->chunk;
	int64_t all = panels(t->m);
	t->part = (32 << 10) / (t->m->panel * t->chunk) + 1;
	t->parts = (all + t->part - 1) / t->part;
	t->part = (all + t->parts - 1) / t->parts;
	t->parts = (all + t->part - 1) / t->part;
}

// From how many rows on it pays to spread weights out to floats first.
enum { SPREAD = 32, DEPTH = 128, COLUMNS = WIDE_V * W, WIDE_PANELS = COLUMNS / PANEL };

void NAME(plan_exact)(product_call *t) {
	int spread = t->rows >= SPREAD;
	divide(t, spread ? WIDE : MOST, (t->m->in + t->m->in / t->m->group) * sizeof(float));
	if (!spread) return;
	t->part = (t->part + WIDE_PANELS - 1) / WIDE_PANELS * WIDE_PANELS;
	t->parts = (panels(t->m) + t->part - 1) / t->part;
}

void NAME(plan_rounded)(product_call *t) { divide(t, MOST, t->m->in + t->m->in / t->m->group * 3 * sizeof(float)); }

// lay_exact writes a tile: numbers [in, rows], then the sums of their groups [groups, rows].
TARGET void NAME(lay_exact)(void *call, size_t tile) {
	const product_call *t = call;
	int64_t from = first_row(t, tile), rows = first_row(t, tile + 1) - from, K = t->m->in, G = t->m->group;
	float *to = (float *)(t->room + tile * t->tile), *sums = to + K * rows;
	if (rows == 1) memcpy(to, t->x + from * K, K * sizeof(float));
	for (int64_t k0 = 0; rows > 1 && k0 < K; k0 += 16) // a part at a time, which stays near
		for (int64_t r = 0; r < rows; r++)
			for (int64_t k = k0; k < k0 + 16; k++) to[k * rows + r] = t->x[(from + r) * K + k];
	if (!t->m->shifted) return;
	for (int64_t r = 0; r < rows; r++)
		for (int64_t g = 0; g < K / G; g++) {
			const float *x = t->x + (from + r) * K + g * G;
			V sum = SET1(0);
			for (int64_t k = 0; k < G; k += W) sum = FMA(LOAD(x + k), SET1(1), sum);
			sums[g * rows + r] = SUM(sum);
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

// scale_of and shift_of are those of group g, whose head this is, for the rows of a panel from h on.
INLINE V scale_of(const matrix *m, const uint8_t *head, int64_t g, int h) {
	return m->halves ? HALVES(head + ((g & 1) * PANEL + h) * 2) : LOAD((const float *)head + h);
}

INLINE V shift_of(const matrix *m, const uint8_t *head, int64_t g, int h, V scale) {
	return m->halves ? FMA(scale, SET1(m->bits == 4 ? 8 : 128), HALVES(head + LINE + ((g & 1) * PANEL + h) * 2)) : LOAD((const float *)(head + LINE) + h);
}

// A panel by a tile: rows, bits and the vectors of a group are constants where it is inlined. So is at_once: how many vectors of a
// line are taken in one go: with few rows there are registers for all, and a line comes from memory once.
#define AT_ONCE (rows <= 2 ? PANEL / W : 1)
#define EVERY _Pragma("GCC unroll 8") for (int l = 0; l < at_once; l++)

INLINE void rounded(const int rows, const int bits, const int vectors, const matrix *m, uint8_t *panel, const uint8_t *tile, float *y, int64_t ldy) {
	int64_t groups = m->in / m->group;
	const int words = vectors * (bits == 4 ? 2 : 1), at_once = AT_ONCE; // words: of four numbers, in a group
	for (int h = 0; h < PANEL; h += at_once * W) {
		const int32_t *x = (const int32_t *)tile, *rest = x + groups * words * rows;
		V sum[PANEL / W][MOST];
		EVERY EACH sum[l][r] = SET1(0);
		for (int64_t g = 0; g < groups; g++) {
			uint8_t *head = head_of(m, panel, g), *codes = codes_of(m, head, g) + h * 4;
			PREFETCH(head);
			I dot[PANEL / W][MOST];
			EVERY EACH dot[l][r] = ISET1(rest[r]);
			_Pragma("GCC unroll 8") for (int v = 0; v < vectors; v++) {
				PREFETCH(codes);
				EVERY {
					I w = ILOAD(codes + l * W * 4);
					if (bits == 4) {
						I low = LOW4(w), high = HIGH4(w);
						EACH dot[l][r] = DOT4(dot[l][r], low, ISET1(x[r]));
						EACH dot[l][r] = DOT4(dot[l][r], high, ISET1(x[rows + r]));
					} else {
						EACH dot[l][r] = DOT8(dot[l][r], w, ISET1(x[r]));
					}
				}
				codes += LINE;
				x += (bits == 4 ? 2 : 1) * rows;
			}
			EVERY {
				V scale = scale_of(m, head, g, h + l * W);
				EACH sum[l][r] = FMA(FLOAT(dot[l][r]), MUL(scale, SET1(((const float *)rest)[rows + r])), sum[l][r]);
				if (m->shifted) {
					V shift = shift_of(m, head, g, h + l * W, scale);
					EACH sum[l][r] = FMA(shift, SET1(((const float *)rest)[2 * rows + r]), sum[l][r]);
				}
			}
			rest += 3 * rows;
		}
		EVERY EACH STORE(y + r * ldy + h + l * W, sum[l][r]);
	}
}

INLINE void exact(const int rows, const int bits, const int vectors, const matrix *m, uint8_t *panel, const uint8_t *tile, float *y, int64_t ldy) {
	int64_t groups = m->in / m->group;
	const int at_once = AT_ONCE;
	TABLES;
	for (int h = 0; h < PANEL; h += at_once * W) {
		const float *x = (const float *)tile, *sums = x + m->in * rows;
		V sum[PANEL / W][MOST];
		EVERY EACH sum[l][r] = SET1(0);
		for (int64_t g = 0; g < groups; g++) {
			uint8_t *head = head_of(m, panel, g), *codes = codes_of(m, head, g) + h * 4;
			PREFETCH(head);
			V dot[PANEL / W][MOST];
			EVERY EACH dot[l][r] = SET1(0);
			_Pragma("GCC unroll 8") for (int v = 0; v < vectors; v++) {
				PREFETCH(codes);
				EVERY {
					I w = ILOAD(codes + l * W * 4);
					_Pragma("GCC unroll 8") for (int i = 0; i < 32 / bits; i++) {
						int k = bits == 4 ? i / 2 + 4 * (i & 1) : i;
						V c = bits == 4 ? CODE4(w, i) : CODE8(w, i);
						EACH dot[l][r] = FMA(c, SET1(x[k * rows + r]), dot[l][r]);
					}
				}
				codes += LINE;
				x += 32 / bits * rows;
			}
			EVERY {
				V scale = scale_of(m, head, g, h + l * W);
				EACH sum[l][r] = FMA(dot[l][r], scale, sum[l][r]);
				if (m->shifted) {
					V shift = shift_of(m, head, g, h + l * W, scale);
					EACH sum[l][r] = FMA(shift, SET1(sums[g * rows + r]), sum[l][r]);
				}
			}
		}
		EVERY EACH STORE(y + r * ldy + h + l * W, sum[l][r]);
	}
}

typedef void (*NAME(panel_job))(const matrix *, uint8_t *, const uint8_t *, float *, int64_t);

// One of each for the groups that there are: 32 of 4 and 8 bits, 16 of either.
#define PANEL_JOB(how, rows, bits, vectors)                                                                                                     \
	TARGET static void how##_##rows##_##bits##_##vectors(const matrix *m, uint8_t *panel, const uint8_t *tile, float *y, int64_t ldy) { \
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
			uint8_t *panel = m->at + p * m->panel, *tile = t->room + i * t->tile;
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

// spread writes numbers [from, to) of panels from p on as floats [to - from, COLUMNS].
TARGET static void spread(const matrix *m, int64_t p, int64_t from, int64_t to, float *w) {
	const int64_t each = 32 / m->bits, vectors = m->group / each;
	TABLES;
	for (int c = 0; c < COLUMNS; c += PANEL, p++) {
		if (p >= panels(m)) p--; // columns that nobody looks at
		uint8_t *panel = m->at + p * m->panel;
		for (int h = 0; h < PANEL; h += W) {
			float *to_column = w + c + h;
			for (int64_t g = from / m->group; g < to / m->group; g++) {
				uint8_t *head = head_of(m, panel, g), *codes = codes_of(m, head, g) + h * 4;
				V scale = scale_of(m, head, g, h), shift = m->shifted ? shift_of(m, head, g, h, scale) : SET1(0);
				for (int64_t v = 0; v < vectors; v++) {
					I word = ILOAD(codes + v * LINE);
					if (m->bits == 4) {
						_Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) STORE(to_column + (i / 2 + 4 * (i & 1)) * COLUMNS, FMA(CODE4(word, i), scale, shift));
					} else {
						_Pragma("GCC unroll 8") for (int i = 0; i < 4; i++) STORE(to_column + i * COLUMNS, FMA(CODE8(word, i), scale, shift));
					}
					to_column += each * COLUMNS;
				}
			}
		}
	}
}

// wide_tile: y [rows, COLUMNS] = (add ? y : 0) + x w for x [depth, rows] and w [depth, COLUMNS].
INLINE void wide_tile(const int rows, int add, int64_t depth, const float *x, const float *w, float *y, int64_t ldy) {
	V sum[WIDE][WIDE_V];
	_Pragma("GCC unroll 16") for (int r = 0; r < rows; r++)
		_Pragma("GCC unroll 8") for (int j = 0; j < WIDE_V; j++) sum[r][j] = add ? LOAD(y + r * ldy + j * W) : SET1(0);
	for (int64_t k = 0; k < depth; k++) {
		V column[WIDE_V];
		_Pragma("GCC unroll 8") for (int j = 0; j < WIDE_V; j++) column[j] = LOAD(w + k * COLUMNS + j * W);
		_Pragma("GCC unroll 16") for (int r = 0; r < rows; r++) {
			V a = SET1(x[k * rows + r]);
			_Pragma("GCC unroll 8") for (int j = 0; j < WIDE_V; j++) sum[r][j] = FMA(a, column[j], sum[r][j]);
		}
	}
	_Pragma("GCC unroll 16") for (int r = 0; r < rows; r++)
		_Pragma("GCC unroll 8") for (int j = 0; j < WIDE_V; j++) STORE(y + r * ldy + j * W, sum[r][j]);
}

TARGET static void wide_tiles(int rows, int add, int64_t depth, const float *x, const float *w, float *y, int64_t ldy) {
#define TILE(n) case n: wide_tile(n, add, depth, x, w, y, ldy); break
	switch (rows) {
		TILE(1); TILE(2); TILE(3); TILE(4); TILE(5); TILE(6);
#if WIDE == 12
		TILE(7); TILE(8); TILE(9); TILE(10); TILE(11); TILE(12);
#endif
	}
}

static void multiply_spread(const product_call *t, size_t job) {
	const matrix *m = t->m;
	int64_t N = m->out, K = m->in, chunk = job / t->parts * t->chunk, tiles = chunk + t->chunk < t->tiles ? chunk + t->chunk : t->tiles;
	int64_t from = job % t->parts * t->part, to = from + t->part < panels(m) ? from + t->part : panels(m);
	float w[DEPTH * COLUMNS] __attribute__((aligned(LINE))), edge[WIDE * COLUMNS];
	for (int64_t p = from; p < to; p += WIDE_PANELS)
		for (int64_t k = 0; k < K; k += DEPTH) {
			int64_t depth = K - k < DEPTH ? K - k : DEPTH, cols = N - p * PANEL;
			spread(m, p, k, k + depth, w);
			for (int64_t i = chunk; i < tiles; i++) {
				int64_t row = first_row(t, i), rows = first_row(t, i + 1) - row;
				const float *x = (const float *)(t->room + i * t->tile) + k * rows;
				float *y = t->y + row * N + p * PANEL;
				if (cols >= COLUMNS) {
					wide_tiles(rows, k > 0, depth, x, w, y, N);
					continue;
				}
				for (int64_t r = 0; k > 0 && r < rows; r++) memcpy(edge + r * COLUMNS, y + r * N, cols * sizeof(float));
				wide_tiles(rows, k > 0, depth, x, w, edge, COLUMNS);
				for (int64_t r = 0; r < rows; r++) memcpy(y + r * N, edge + r * COLUMNS, cols * sizeof(float));
			}
		}
}

void NAME(multiply_exact)(void *call, size_t job) {
	const product_call *t = call;
	if (t->rows >= SPREAD) multiply_spread(t, job);
	else multiply(t, job, exact_jobs);
}
