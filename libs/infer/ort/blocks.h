// Products with matrices in blocks of 4 or 8 bits, in C for each width of vectors: blocks_jobs.h is compiled once for each.
//
// A matrix [out, in] is held in panels of PANEL rows, which are read in one go: for each group, or pair of groups, a head of
// scales and shifts, and the codes, PANEL rows side by side. A vector of codes has a word of 32 bits for each row: four codes of 8 bits,
// or eight of 4 of which byte j holds the j-th and the (4+j)-th. So no sum crosses a vector, and one form serves both
// products with float32 as it is and with numbers that are rounded to 8 bits a group.
#pragma once
#include <stddef.h>
#include <stdint.h>

enum { PANEL = 16, LINE = 64 };

// matrix is w[n, k] = scale[n, g] * (code[n, k] - zero) + shift[n, g], g = k / group, zero = 2^(bits-1).
typedef struct {
	int64_t out, in, group;
	int32_t bits;
	int32_t halves;  // scales and shifts are halves, two groups to a head, and shifts are less zero * scale; else floats
	int32_t shifted;
	int64_t head, codes, stride, panel; // bytes of the head, of a group's codes, of all that goes with a head, and of a panel
	uint8_t *at;                   // bytes() of them, at a LINE
} matrix;

static inline int64_t panels(const matrix *m) { return (m->out + PANEL - 1) / PANEL; }
// The head of group g in a panel, and its codes there.
static inline uint8_t *head_of(const matrix *m, uint8_t *panel, int64_t g) { return panel + (g >> m->halves) * m->stride; }
static inline uint8_t *codes_of(const matrix *m, uint8_t *head, int64_t g) { return head + m->head + (g & m->halves) * m->codes; }

static inline int64_t bytes(const matrix *m) { return panels(m) * m->panel; }

// source is a matrix as files have it: codes [out, in/group, group*bits/8], scale and, or NULL, shift [out, in/group]. One
// that is halved has 8 bits in two matrices of 4, one below the other, whose scales are 16 times those of the other.
typedef struct {
	int64_t out, in, group;
	int32_t bits, halved;
	const uint8_t *codes;
	const float *scale, *shift;
} source;

// plan fills in all but at; 0 if the source is of a form that is not taken. lay writes the panels.
int plan_blocks(const source *s, matrix *m);
void lay_blocks(const source *s, const matrix *m);

// product is one call: y [rows, out] = x [rows, in] w^T, by tiles of rows.
typedef struct {
	const matrix *m;
	int64_t rows, tiles;
	const float *x;
	float *y;
	uint8_t *room;       // of the tiles
	int64_t tile;        // bytes of a tile of all rows
	int64_t chunk, part; // tiles and panels of a job
	int64_t parts;
} product_call;

#define DECLARE_BLOCKS(suffix)                                                                            \
	void plan_exact_##suffix(product_call *);    /* fills in what is not given; room takes tiles * tile bytes */ \
	void plan_rounded_##suffix(product_call *);                                                           \
	void lay_exact_##suffix(void *, size_t);     /* job: a tile */                                        \
	void lay_rounded_##suffix(void *, size_t);                                                            \
	void multiply_exact_##suffix(void *, size_t); /* job: (chunk of tiles, part of the panels) */         \
	void multiply_rounded_##suffix(void *, size_t);
DECLARE_BLOCKS(vnni)
DECLARE_BLOCKS(blocks_avx2)
