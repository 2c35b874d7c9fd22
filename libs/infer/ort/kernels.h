// Operators of our own for the processor, in place of the runtime's where those leave much of the machine idle:
// attention, which computes the triangle of scores that is needed and reads a cache once for each group of heads, and the
// adapter's two small products, which are added in one pass. jobs.h is compiled once for each width of vectors.
#pragma once
#include <stddef.h>
#include <stdint.h>

// KEYS is how many keys are scored at once; ROWS how many rows a tile has.
enum { KEYS = 64, ROWS = 6, MOST_WIDTH = 256, TOKENS = 48 };

// attention is one call: rows [batch, tokens] of heads of width numbers over a cache [batch, kv, capacity, width].
typedef struct {
	int64_t batch, tokens, heads, kv, width, half; // half of the rotated numbers of a head
	int64_t past_capacity, capacity;
	const float *q, *k, *v; // of the first head
	int64_t q_stride, kv_stride;
	const float *past_key, *past_value, *cos, *sin;
	const int32_t *lengths; // with these tokens, less one
	int64_t longest;        // the largest of lengths, plus one
	float *key, *value, *out;
	float scale;
	float *blocks; // keys on their side: [batch, kv, block of KEYS, width, KEYS]; NULL: keys are read as they lie
	int64_t block_count;
	int64_t spans; // parts of TOKENS that the tokens are cut into
} attention;

// adapter is y + (x a f) b for rows of x [rows, in], a [in, rank], b [rank, out]; f is the factor of the sequence of tokens that
// a row is of, 0 where the adapter is not for it.
typedef struct {
	int64_t rows, in, rank, out, tokens, part; // part: rows of a job
	const float *x, *a, *b, *y, *factors;
	float *z;
	float *small; // [rows, rank]
} adapter;

// Jobs of each, for every width.
#define DECLARE(suffix)                          \
	void attend_keys_##suffix(void *, size_t);   \
	void attend_tokens_##suffix(void *, size_t); \
	void attend_step_##suffix(void *, size_t);   \
	void adapt_##suffix(void *, size_t);         \
	int64_t arg_max_##suffix(const float *, int64_t);
DECLARE(avx512)
DECLARE(avx2)
