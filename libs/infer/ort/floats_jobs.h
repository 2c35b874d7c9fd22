// The jobs of floats.h for one width of vectors. Included by a file that defines
//   NAME(x), TARGET, V, W (numbers in V), NV (vectors in a row of a tile), MOST (rows of a tile), and LOAD, STORE, SET1, ADD, FMA (a*b+c).
#include <string.h>
#include "floats.h"

#define INLINE static inline __attribute__((always_inline)) TARGET
#define PANEL_ROWS (NV * W)
#define LENGTH (DEPTH + 16) // of a row of x that was copied: not a power of two, so that rows do not push each other out of the cache

// strip: y [rows, panels*PANEL_ROWS] = (add ? y : 0) + x [rows, depth] w, where panels are depth*PANEL_ROWS apart. Several panels at
// once are several streams from memory, of which one alone does not take all that it can give.
INLINE void strip(const int rows, const int panels, const int add, const int ahead, int64_t depth, const float *x, const float *w, float *y, int64_t ldy) {
	V sum[panels][rows][NV];
	const int64_t apart = depth * PANEL_ROWS;
#pragma GCC unroll 8
	for (int p = 0; p < panels; p++)
#pragma GCC unroll 16
		for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
			for (int j = 0; j < NV; j++) {
				sum[p][r][j] = SET1(0);
				if (j * W % 16 == 0) _mm_prefetch((const char *)(y + r * ldy + p * PANEL_ROWS + j * W), _MM_HINT_T0); // added to at the end
			}
#pragma GCC unroll 4
	for (int64_t k = 0; k < depth; k++) {
#pragma GCC unroll 8
		for (int p = 0; p < panels; p++) {
			V row[NV];
#pragma GCC unroll 8
			for (int j = 0; j < NV; j++) {
				row[j] = LOAD(w + p * apart + k * PANEL_ROWS + j * W);
				if (ahead && j * W % 16 == 0) _mm_prefetch((const char *)(w + p * apart + k * PANEL_ROWS + j * W) + ahead, _MM_HINT_T0);
			}
#pragma GCC unroll 16
			for (int r = 0; r < rows; r++) {
				V a = SET1(x[r * LENGTH + k]);
#pragma GCC unroll 8
				for (int j = 0; j < NV; j++) sum[p][r][j] = FMA(a, row[j], sum[p][r][j]);
			}
		}
	}
#pragma GCC unroll 8
	for (int p = 0; p < panels; p++)
#pragma GCC unroll 16
		for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
			for (int j = 0; j < NV; j++) {
				float *to = y + r * ldy + p * PANEL_ROWS + j * W;
				STORE(to, add ? ADD(LOAD(to), sum[p][r][j]) : sum[p][r][j]);
			}
}

// How many bytes ahead of its reading a panel that comes from memory is asked for. One that is in a cache already is not: that costs a third.
#define FAR(rows) ((rows) == 1 ? 1024 : 4096)

#define STRIP(rows, panels)                                         \
	case rows:                                                      \
		if (add && far) strip(rows, panels, 1, FAR(rows), depth, x, w, y, ldy);  \
		else if (add) strip(rows, panels, 1, 0, depth, x, w, y, ldy);            \
		else if (far) strip(rows, panels, 0, FAR(rows), depth, x, w, y, ldy);    \
		else strip(rows, panels, 0, 0, depth, x, w, y, ldy);                     \
		break;

TARGET static void one_panel(int rows, int add, int far, int64_t depth, const float *x, const float *w, float *y, int64_t ldy) {
	switch (rows) {
		STRIP(1, 1) STRIP(2, 1) STRIP(3, 1) STRIP(4, 1) STRIP(5, 1) STRIP(6, 1)
#if MOST > 6
		STRIP(7, 1) STRIP(8, 1) STRIP(9, 1)
#endif
	}
}

TARGET static void two_panels(int rows, int add, int far, int64_t depth, const float *x, const float *w, float *y, int64_t ldy) {
	switch (rows) {
		STRIP(1, 2) STRIP(2, 2)
#if MOST > 6
		STRIP(3, 2) STRIP(4, 2)
#endif
	}
}

int64_t NAME(plan_floats)(float_call *t) {
	int64_t all = float_panels(t->m);
	t->blocks = (t->rows + MOST - 1) / MOST;
	// A group's slice stays in the second-level cache while the blocks of a chunk pass by.
	t->group = t->blocks == 1 ? 2 : 8;
	t->groups = (all + t->group - 1) / t->group;
	t->chunk = t->blocks < 16 ? t->blocks : 16;
	while (t->chunk > 4 && (t->blocks + t->chunk - 1) / t->chunk * t->groups < 24) t->chunk = (t->chunk + 1) / 2;
	return (t->blocks + t->chunk - 1) / t->chunk * t->groups;
}

TARGET void NAME(multiply_floats)(void *call, size_t job) {
	const float_call *t = call;
	const float_matrix *m = t->m;
	int64_t all = float_panels(m), whole = m->out / PANEL_ROWS, chunks = (t->blocks + t->chunk - 1) / t->chunk, group = job / chunks, chunk = job % chunks;
	int64_t n0 = all * group / t->groups, n1 = all * (group + 1) / t->groups;
	int64_t end = (chunk + 1) * t->chunk < t->blocks ? (chunk + 1) * t->chunk : t->blocks;
	float copy[MOST * LENGTH] __attribute__((aligned(64)));
	for (int64_t s = 0; s < slices(m); s++) {
		int64_t k0 = slice_begin(m, s), depth = slice_begin(m, s + 1) - k0;
		const float *w = m->at + k0 * all * PANEL_ROWS;
		for (int64_t b = chunk * t->chunk; b < end; b++) {
			int64_t from = t->rows * b / t->blocks;
			int rows = t->rows * (b + 1) / t->blocks - from, far = t->blocks == 1; // panels are read once
			const float *x = t->x + from * m->in + k0;
			for (int r = 0; r < rows && rows > 1; r++) memcpy(copy + r * LENGTH, x + r * m->in, depth * sizeof(float));
			if (rows > 1) x = copy;
			float *y = t->y + from * m->out;
			int64_t n = n0;
			for (; rows <= (MOST > 6 ? 4 : 2) && n + 2 <= n1 && n + 2 <= whole; n += 2)
				two_panels(rows, s > 0, far, depth, x, w + n * depth * PANEL_ROWS, y + n * PANEL_ROWS, m->out);
			for (; n < n1 && n < whole; n++) one_panel(rows, s > 0, far, depth, x, w + n * depth * PANEL_ROWS, y + n * PANEL_ROWS, m->out);
			if (n < n1) { // the last, of fewer rows
				int64_t some = m->out - n * PANEL_ROWS;
				float last[MOST * PANEL_ROWS] = {0};
				y += n * PANEL_ROWS;
				for (int r = 0; r < rows && s > 0; r++) memcpy(last + r * PANEL_ROWS, y + r * m->out, some * sizeof(float));
				one_panel(rows, s > 0, far, depth, x, w + n * depth * PANEL_ROWS, last, PANEL_ROWS);
				for (int r = 0; r < rows; r++) memcpy(y + r * m->out, last + r * PANEL_ROWS, some * sizeof(float));
			}
		}
	}
}
