// The jobs of kernels.h for one width of vectors. Included by a file that defines
//   NAME(x), TARGET, V, W (numbers in V), NV (vectors in a row of a tile), and LOAD, STORE, SET1, ADD, MUL, FMA (a*b+c), MAX,
//   SUM, TOP (across a vector) and EXP (0 below -87).
#include <math.h>
#include <string.h>
#include "kernels.h"

#define INLINE static inline __attribute__((always_inline)) TARGET

// tile: c [rows, nv*W] = (add ? c : 0) + a [rows, depth] b [depth, nv*W]. rows, nv and add are constants where it is inlined.
INLINE void tile(const int rows, const int nv, const int add, int64_t depth, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc) {
	V sum[ROWS][NV];
#pragma GCC unroll 8
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
		for (int j = 0; j < nv; j++) sum[r][j] = add ? LOAD(c + r * ldc + j * W) : SET1(0);
	for (int64_t k = 0; k < depth; k++) {
		V row[NV];
#pragma GCC unroll 8
		for (int j = 0; j < nv; j++) row[j] = LOAD(b + k * ldb + j * W);
#pragma GCC unroll 8
		for (int r = 0; r < rows; r++) {
			V x = SET1(a[r * lda + k]);
#pragma GCC unroll 8
			for (int j = 0; j < nv; j++) sum[r][j] = FMA(x, row[j], sum[r][j]);
		}
	}
#pragma GCC unroll 8
	for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
		for (int j = 0; j < nv; j++) STORE(c + r * ldc + j * W, sum[r][j]);
}

#define TILE_ROWS(nv, add)                                                   \
	switch (rows) {                                                          \
	case 1: tile(1, nv, add, depth, a, lda, b, ldb, c, ldc); break;          \
	case 2: tile(2, nv, add, depth, a, lda, b, ldb, c, ldc); break;          \
	case 3: tile(3, nv, add, depth, a, lda, b, ldb, c, ldc); break;          \
	case 4: tile(4, nv, add, depth, a, lda, b, ldb, c, ldc); break;          \
	case 5: tile(5, nv, add, depth, a, lda, b, ldb, c, ldc); break;          \
	default: tile(6, nv, add, depth, a, lda, b, ldb, c, ldc);                \
	}

TARGET static void wide_set(int rows, int64_t depth, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc) { TILE_ROWS(NV, 0) }
TARGET static void wide_add(int rows, int64_t depth, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc) { TILE_ROWS(NV, 1) }
TARGET static void slim_set(int rows, int64_t depth, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc) { TILE_ROWS(1, 0) }
TARGET static void slim_add(int rows, int64_t depth, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc) { TILE_ROWS(1, 1) }

// product: c [rows, cols] = (add ? c : 0) + a b, for up to ROWS rows and any number of columns.
TARGET static void product(int add, int rows, int64_t cols, int64_t depth, const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc) {
	int64_t j = 0;
	for (; j + NV * W <= cols; j += NV * W) (add ? wide_add : wide_set)(rows, depth, a, lda, b + j, ldb, c + j, ldc);
	for (; j + W <= cols; j += W) (add ? slim_add : slim_set)(rows, depth, a, lda, b + j, ldb, c + j, ldc);
	for (; j < cols; j++)
		for (int r = 0; r < rows; r++) {
			float sum = add ? c[r * ldc + j] : 0;
			for (int64_t k = 0; k < depth; k++) sum += a[r * lda + k] * b[k * ldb + j];
			c[r * ldc + j] = sum;
		}
}

// rotate writes a head at a position, times scale. Halves are multiples of 8.
TARGET static void rotate(const attention *t, float *to, const float *x, int64_t position, float scale) {
	const float *c = t->cos + position * t->half, *s = t->sin + position * t->half;
	for (int64_t i = 0; i < t->half; i++) {
		float a = x[i], b = x[i + t->half];
		to[i] = (a * c[i] - b * s[i]) * scale;
		to[i + t->half] = (b * c[i] + a * s[i]) * scale;
	}
	for (int64_t i = 2 * t->half; i < t->width; i++) to[i] = x[i] * scale;
}

// before is how many tokens row b has in the cache.
static int64_t before(const attention *t, int64_t b) { return t->tokens == t->longest ? 0 : t->lengths[b] + 1 - t->tokens; }

// extend writes the new keys and values of row b and head h to the cache.
TARGET static void extend(const attention *t, int64_t b, int64_t h) {
	int64_t D = t->width, past = before(t, b), at = (b * t->kv + h) * t->capacity * D;
	float *key = t->key + at, *value = t->value + at;
	if (t->past_key != t->key && past > 0) {
		int64_t from = (b * t->kv + h) * t->past_capacity * D;
		memcpy(key, t->past_key + from, past * D * sizeof(float));
		memcpy(value, t->past_value + from, past * D * sizeof(float));
	}
	for (int64_t i = 0; i < t->tokens; i++) {
		int64_t row = (b * t->tokens + i) * t->kv_stride + h * D;
		rotate(t, key + (past + i) * D, t->k + row, past + i, 1);
		memcpy(value + (past + i) * D, t->v + row, D * sizeof(float));
	}
}

// A tile of queries on its way through the keys.
typedef struct {
	float q[ROWS * MOST_WIDTH], sum[ROWS * MOST_WIDTH], score[ROWS * KEYS];
	float top[ROWS], weight[ROWS];
} __attribute__((aligned(64))) state;

TARGET static void begin(state *s, int rows, int64_t D) {
	memset(s->sum, 0, rows * D * sizeof(float));
	for (int r = 0; r < rows; r++) s->top[r] = -INFINITY, s->weight[r] = 0;
}

// weigh takes the scores of n keys, of which row r sees the first seen[r], and adds their values.
TARGET static void weigh(state *s, int rows, int64_t D, int64_t n, const int64_t *seen, const float *value) {
	for (int r = 0; r < rows; r++) {
		float *score = s->score + r * KEYS;
		for (int64_t j = seen[r] < 0 ? 0 : seen[r]; j < KEYS; j++) score[j] = -INFINITY;
		if (seen[r] <= 0) { // nothing of this block
			for (int64_t j = 0; j < KEYS; j++) score[j] = 0;
			continue;
		}
		V top = LOAD(score);
		for (int64_t j = W; j < KEYS; j += W) top = MAX(top, LOAD(score + j));
		float most = TOP(top);
		if (most > s->top[r]) {
			float shrink = expf(s->top[r] - most);
			s->top[r] = most;
			s->weight[r] *= shrink;
			V by = SET1(shrink);
			for (int64_t d = 0; d < D; d += W) STORE(s->sum + r * D + d, MUL(LOAD(s->sum + r * D + d), by));
		}
		V less = SET1(-s->top[r]), total = SET1(0);
		for (int64_t j = 0; j < KEYS; j += W) {
			V p = EXP(ADD(LOAD(score + j), less));
			total = ADD(total, p);
			STORE(score + j, p);
		}
		s->weight[r] += SUM(total);
	}
	product(1, rows, D, n, s->score, KEYS, value, D, s->sum, D);
}

TARGET static void finish(const state *s, int r, int64_t D, float *out) {
	V by = SET1(1 / s->weight[r]);
	for (int64_t d = 0; d < D; d += W) STORE(out + d, MUL(LOAD(s->sum + r * D + d), by));
}

// attend_keys: job (row, head of keys) extends the cache and lays its keys on their side.
TARGET void NAME(attend_keys)(void *call, size_t job) {
	const attention *t = call;
	int64_t b = job / t->kv, h = job % t->kv, D = t->width;
	extend(t, b, h);
	int64_t n = before(t, b) + t->tokens;
	const float *key = t->key + job * t->capacity * D;
	for (int64_t from = 0; from < n; from += KEYS) {
		float *block = t->blocks + (job * t->block_count + from / KEYS) * D * KEYS;
		int64_t some = n - from < KEYS ? n - from : KEYS;
		for (int64_t d0 = 0; d0 < D; d0 += 16) // 16 numbers are a line of memory
			for (int64_t j = 0; j < KEYS; j++)
				for (int64_t d = d0; d < d0 + 16; d++) block[d * KEYS + j] = j < some ? key[(from + j) * D + d] : 0;
	}
}

// attend_tokens: job (row, head, span of tokens).
TARGET void NAME(attend_tokens)(void *call, size_t job) {
	const attention *t = call;
	int64_t span = t->spans - 1 - job % t->spans; // the longest first
	int64_t b = job / t->spans / t->heads, head = job / t->spans % t->heads, D = t->width;
	int64_t of = b * t->kv + head / (t->heads / t->kv), past = before(t, b);
	const float *blocks = t->blocks + of * t->block_count * D * KEYS, *value = t->value + of * t->capacity * D;
	state s;
	int64_t end = (span + 1) * TOKENS < t->tokens ? (span + 1) * TOKENS : t->tokens;
	for (int64_t i = span * TOKENS; i < end; i += ROWS) {
		int rows = end - i < ROWS ? end - i : ROWS;
		for (int r = 0; r < rows; r++) rotate(t, s.q + r * D, t->q + (b * t->tokens + i + r) * t->q_stride + head * D, past + i + r, t->scale);
		begin(&s, rows, D);
		int64_t n = past + i + rows; // keys that the last row sees
		for (int64_t from = 0; from < n; from += KEYS) {
			int64_t seen[ROWS];
			for (int r = 0; r < rows; r++) seen[r] = past + i + r + 1 - from < KEYS ? past + i + r + 1 - from : KEYS;
			product(0, rows, KEYS, D, s.q, D, blocks + from * D, KEYS, s.score, KEYS);
			weigh(&s, rows, D, n - from < KEYS ? n - from : KEYS, seen, value + from * D);
		}
		for (int r = 0; r < rows; r++) finish(&s, r, D, t->out + (b * t->tokens + i + r) * t->heads * D + head * D);
	}
}

// dots: scores of n keys [n, D] for each row.
INLINE void dots(const int rows, int64_t D, int64_t n, const float *q, const float *key, float *score) {
	for (int64_t j = 0; j < n; j++) {
		V sum[ROWS];
#pragma GCC unroll 8
		for (int r = 0; r < rows; r++) sum[r] = SET1(0);
		for (int64_t d = 0; d < D; d += W) {
			V k = LOAD(key + j * D + d);
#pragma GCC unroll 8
			for (int r = 0; r < rows; r++) sum[r] = FMA(LOAD(q + r * D + d), k, sum[r]);
		}
#pragma GCC unroll 8
		for (int r = 0; r < rows; r++) score[r * KEYS + j] = SUM(sum[r]);
	}
}

// attend_step: job (row, head of keys) of a run of few tokens: all its heads read the keys as they lie.
TARGET void NAME(attend_step)(void *call, size_t job) {
	const attention *t = call;
	int64_t b = job / t->kv, h = job % t->kv, D = t->width, group = t->heads / t->kv, past = before(t, b);
	extend(t, b, h);
	const float *key = t->key + job * t->capacity * D, *value = t->value + job * t->capacity * D;
	state s;
	for (int64_t first = 0; first < group * t->tokens; first += ROWS) {
		int rows = group * t->tokens - first < ROWS ? group * t->tokens - first : ROWS;
		int64_t place[ROWS], sees[ROWS];
		for (int r = 0; r < rows; r++) {
			int64_t i = (first + r) / group, head = h * group + (first + r) % group;
			place[r] = (b * t->tokens + i) * t->heads * D + head * D;
			sees[r] = past + i + 1;
			rotate(t, s.q + r * D, t->q + (b * t->tokens + i) * t->q_stride + head * D, past + i, t->scale);
		}
		begin(&s, rows, D);
		int64_t n = sees[rows - 1];
		for (int64_t from = 0; from < n; from += KEYS) {
			int64_t some = n - from < KEYS ? n - from : KEYS, seen[ROWS];
			for (int r = 0; r < rows; r++) seen[r] = sees[r] - from < KEYS ? sees[r] - from : KEYS;
			const float *k = key + from * D;
			switch (rows) {
			case 1: dots(1, D, some, s.q, k, s.score); break;
			case 2: dots(2, D, some, s.q, k, s.score); break;
			case 3: dots(3, D, some, s.q, k, s.score); break;
			case 4: dots(4, D, some, s.q, k, s.score); break;
			case 5: dots(5, D, some, s.q, k, s.score); break;
			default: dots(6, D, some, s.q, k, s.score);
			}
			weigh(&s, rows, D, some, seen, value + from * D);
		}
		for (int r = 0; r < rows; r++) finish(&s, r, D, t->out + place[r]);
	}
}

// adapt: job of part rows.
TARGET void NAME(adapt)(void *call, size_t job) {
	const adapter *t = call;
	int64_t end = (int64_t)(job + 1) * t->part < t->rows ? (int64_t)(job + 1) * t->part : t->rows;
	for (int64_t i = job * t->part; i < end; i += ROWS) {
		int rows = end - i < ROWS ? end - i : ROWS;
		float *small = t->small + i * t->rank, *z = t->z + i * t->out;
		if (t->z != t->y) memcpy(z, t->y + i * t->out, rows * t->out * sizeof(float));
		product(0, rows, t->rank, t->in, t->x + i * t->in, t->in, t->a, t->rank, small, t->rank);
		for (int r = 0; r < rows; r++) {
			float f = t->factors[(i + r) / t->tokens];
			for (int64_t k = 0; f != 1 && k < t->rank; k++) small[r * t->rank + k] *= f;
		}
		product(1, rows, t->out, t->rank, small, t->rank, t->b, t->out, z, t->out);
	}
}

// arg_max: the first place of the largest of n numbers; -1 if one is not a number or the largest is infinite. Four maxima
// hide the latency of one.
TARGET int64_t NAME(arg_max)(const float *x, int64_t n) {
	int64_t i = 0;
	float top = -INFINITY, odd = 0; // odd: not a number as soon as one is
	if (n >= 4 * W) {
		V most[4], zero[4];
#pragma GCC unroll 8
		for (int k = 0; k < 4; k++) most[k] = SET1(-INFINITY), zero[k] = SET1(0);
		for (; i + 4 * W <= n; i += 4 * W)
#pragma GCC unroll 8
			for (int k = 0; k < 4; k++) {
				V v = LOAD(x + i + k * W);
				most[k] = MAX(most[k], v);
				zero[k] = FMA(v, SET1(0), zero[k]);
			}
		top = TOP(MAX(MAX(most[0], most[1]), MAX(most[2], most[3])));
		odd = SUM(ADD(ADD(zero[0], zero[1]), ADD(zero[2], zero[3])));
	}
	for (; i < n; i++) {
		top = x[i] > top ? x[i] : top;
		odd += x[i] * 0;
	}
	if (odd != odd) { // one is infinite or not a number: the lowest may be infinite
		top = -INFINITY;
		for (i = 0; i < n; i++) {
			if (x[i] != x[i]) return -1;
			top = x[i] > top ? x[i] : top;
		}
	}
	if (isinf(top)) return -1;
	for (i = 0; i + W <= n && TOP(LOAD(x + i)) < top; i += W) {}
	while (i < n && x[i] != top) i++;
	return i < n ? i : -1;
}
