// Products with matrices of float32, in C for each width of vectors: floats_jobs.h is compiled once for each.
//
// A matrix [out, in] is held in panels of so many rows as a tile has columns. Its depth is cut into slices of DEPTH at most;
// a slice has the panels one after the other, a panel its numbers [depth, rows]. So a tile of the result is summed in
// registers over a slice of a panel, which streams by, and a few rows of x, which stay in the first-level cache.
#pragma once
#include <stddef.h>
#include <stdint.h>

#define DEPTH 256

typedef struct {
	int64_t out, in, width; // width: rows of a panel
	float *at;
} float_matrix;

static inline int64_t slices(const float_matrix *m) { return (m->in + DEPTH - 1) / DEPTH; }
static inline int64_t slice_begin(const float_matrix *m, int64_t s) { return m->in * s / slices(m); }
static inline int64_t float_panels(const float_matrix *m) { return (m->out + m->width - 1) / m->width; }
static inline int64_t float_numbers(const float_matrix *m) { return float_panels(m) * m->width * m->in; }

// lay_floats writes n rows from first on, of zeros if there are none to read.
void lay_floats(const float_matrix *m, int64_t first, int64_t n, const float *rows);

// float_call is y [rows, out] = x [rows, in] w^T. A tile has rows of a block, of which there are blocks.
typedef struct {
	const float_matrix *m;
	int64_t rows, blocks;
	const float *x;
	float *y;
	int64_t chunk, group, groups; // blocks and panels of a job; groups of panels
} float_call;

// Jobs of a call: (chunk of blocks, group of panels). plan_floats fills in all but x and y and returns how many.
#define DECLARE_FLOATS(suffix)                   \
	int64_t plan_floats_##suffix(float_call *t); \
	void multiply_floats_##suffix(void *, size_t);
DECLARE_FLOATS(avx512)
DECLARE_FLOATS(avx2)

// Rows of a panel for each.
enum { WIDTH_AVX512 = 48, WIDTH_AVX2 = 16 };
