//go:build cgo

// The operators as the runtime's C API wants them: what is given to them is checked here, once a call.

#include <math.h>
#include "runtime.h"

// kernel is an operator's node in a session.
typedef struct {
	table api;
	void *memory; // the processor's
	int64_t heads, kv;
	float scale;
	job keys, tokens, step, adapt;
} kernel;

static status attend_all(void *self, void *context, void *call) {
	kernel *k = self;
	attention *t = call;
	TRY(parallel(k->api, context, k->keys, t->batch * t->kv, t));
	return parallel(k->api, context, k->tokens, t->batch * t->heads * t->spans, t);
}

static status attend(void *self, void *context) {
	kernel *k = self;
	table api = k->api;
	tensor in[9];
	for (size_t i = 0; i < 9; i++) TRY(input(api, context, i, &in[i]));
	tensor *q = &in[0], *past = &in[3], *lengths = &in[5], *longest = &in[6], *cos = &in[7];
	for (int i = 3; i < 9; i++)
		if (in[i].rank == 0) return refuse(api, "attention: an input is left out");
	if (q->rank != 3 || past->rank != 4 || in[4].rank != 4 || cos->rank != 2 || in[8].rank != 2) return refuse(api, "attention: an input is of another rank");
	attention t = {.batch = q->dims[0], .tokens = q->dims[1], .heads = k->heads, .kv = k->kv, .width = past->dims[3], .half = cos->dims[1],
		.past_capacity = past->dims[2], .q = q->data, .past_key = past->data, .past_value = in[4].data, .cos = cos->data, .sin = in[8].data,
		.lengths = lengths->data, .longest = *(const int32_t *)longest->data, .scale = k->scale};
	int64_t D = t.width, packed = in[1].data == NULL;
	if (D <= 0 || D > MOST_WIDTH || D % 16 || t.kv <= 0 || t.heads % t.kv || 2 * t.half > D) return refuse(api, "attention: heads of a form that it does not take");
	t.q_stride = (t.heads + (packed ? 2 * t.kv : 0)) * D;
	t.kv_stride = packed ? t.q_stride : t.kv * D;
	if (q->dims[2] != t.q_stride || past->dims[0] != t.batch || past->dims[1] != t.kv || lengths->dims[0] != t.batch) return refuse(api, "attention: inputs of shapes that do not fit");
	for (int i = 0; i < 4; i++)
		if (in[4].dims[i] != past->dims[i]) return refuse(api, "attention: keys and values of different shapes");
	for (int i = 0; i < 2; i++)
		if (in[8].dims[i] != cos->dims[i]) return refuse(api, "attention: rotary tables of different shapes");
	for (int i = 1; i < 3 && !packed; i++)
		if (in[i].rank != 3 || in[i].dims[0] != t.batch || in[i].dims[1] != t.tokens || in[i].dims[2] != t.kv_stride) return refuse(api, "attention: keys or values of another shape");
	t.k = packed ? t.q + t.heads * D : in[1].data;
	t.v = packed ? t.q + (t.heads + t.kv) * D : in[2].data;
	if (!t.scale) t.scale = 1 / sqrtf(D);
	t.capacity = t.past_capacity > t.longest ? t.past_capacity : t.longest;
	if (t.longest < t.tokens || t.longest > cos->dims[0]) return refuse(api, "attention: more tokens than the rotary tables have rows");
	for (int64_t b = 0; b < t.batch; b++) {
		int64_t n = t.lengths[b] + 1;
		if (n < 1 || n > t.longest || (t.tokens != t.longest && n < t.tokens)) return refuse(api, "attention: a length is out of range");
		if (t.tokens != t.longest && n - t.tokens > t.past_capacity) return refuse(api, "attention: a row is longer than the cache");
	}
	int64_t out[] = {t.batch, t.tokens, t.heads * D}, cache[] = {t.batch, t.kv, t.capacity, D};
	TRY(output(api, context, 0, out, 3, &t.out));
	TRY(output(api, context, 1, cache, 4, &t.key));
	TRY(output(api, context, 2, cache, 4, &t.value));
	if (t.batch == 0 || t.tokens == 0) return NULL;
	if (t.tokens < ROWS) return parallel(api, context, k->step, t.batch * t.kv, &t);
	t.spans = (t.tokens + TOKENS - 1) / TOKENS;
	t.block_count = (t.longest + KEYS - 1) / KEYS;
	return with_scratch(api, k->memory, context, t.batch * t.kv * t.block_count * KEYS * D, &t.blocks, attend_all, k, &t);
}

static status adapt_all(void *self, void *context, void *call) {
	kernel *k = self;
	adapter *t = call;
	return parallel(k->api, context, k->adapt, (t->rows + t->part - 1) / t->part, t);
}

static status adapt(void *self, void *context) {
	kernel *k = self;
	table api = k->api;
	tensor y, x, a, b, factors;
	TRY(input(api, context, 0, &y));
	TRY(input(api, context, 1, &x));
	TRY(input(api, context, 2, &a));
	TRY(input(api, context, 3, &b));
	TRY(input(api, context, 4, &factors));
	if (y.rank < 1 || x.rank < 1 || a.rank != 2 || b.rank != 2 || factors.rank != 3) return refuse(api, "adapter: an input is of another rank");
	adapter t = {.rows = 1, .in = a.dims[0], .rank = a.dims[1], .out = b.dims[1], .x = x.data, .a = a.data, .b = b.data, .y = y.data, .factors = factors.data};
	int64_t rows = 1;
	for (int64_t i = 0; i < y.rank - 1; i++) t.rows *= y.dims[i];
	for (int64_t i = 0; i < x.rank - 1; i++) rows *= x.dims[i];
	if (rows != t.rows || x.dims[x.rank - 1] != t.in || y.dims[y.rank - 1] != t.out || b.dims[0] != t.rank || x.rank < 2 || x.dims[0] != factors.dims[0] || factors.dims[1] != 1 || factors.dims[2] != 1) return refuse(api, "adapter: inputs of shapes that do not fit");
	TRY(output(api, context, 0, y.dims, y.rank, &t.z));
	if (t.rows == 0 || (t.rank == 0 && t.z == t.y)) return NULL;
	t.tokens = t.rows / x.dims[0];
	t.part = t.rows <= 2 * ROWS ? t.rows : 4 * ROWS;
	return with_scratch(api, k->memory, context, t.rows * t.rank, &t.small, adapt_all, k, &t);
}

static status create(const operator *op, table api, const void *info, void **out);
static void destroy(void *self) {
	kernel *k = self;
	release_memory(k->api, k->memory);
	free(k);
}

static const char *attention_name(const operator *op) { return "GroupQueryAttention"; }
static const char *adapter_name(const operator *op) { return "Adapter"; }
static size_t five(const operator *op) { return 5; }
static size_t nine(const operator *op) { return 9; }
static size_t three(const operator *op) { return 3; }
static int attention_type(const operator *op, size_t i) { return i == 5 || i == 6 ? INT32 : FLOAT; }
static int attention_kind(const operator *op, size_t i) { return i == 1 || i == 2 ? OPTIONAL : REQUIRED; }

// One set for each width of vectors: which one a kernel belongs to is seen by its place.
static const operator operators[2][2] = {
	{OPERATOR(attention_name, nine, three, attention_type, attention_kind, create, destroy, attend, nothing_in_place), OPERATOR(adapter_name, five, one, floats, required, create, destroy, adapt, first_in_place)},
	{OPERATOR(attention_name, nine, three, attention_type, attention_kind, create, destroy, attend, nothing_in_place), OPERATOR(adapter_name, five, one, floats, required, create, destroy, adapt, first_in_place)},
};

static status create(const operator *op, table api, const void *info, void **out) {
	kernel *k = calloc(1, sizeof *k);
	if (!k) return refuse(api, "no memory");
	k->api = api;
	int wide = op >= operators[1];
	k->keys = wide ? attend_keys_avx512 : attend_keys_avx2;
	k->tokens = wide ? attend_tokens_avx512 : attend_tokens_avx2;
	k->step = wide ? attend_step_avx512 : attend_step_avx2;
	k->adapt = wide ? adapt_avx512 : adapt_avx2;
	status fault = NULL;
	if (op == &operators[wide][0]) {
		status (*number)(const void *, const char *, int64_t *) = (status(*)(const void *, const char *, int64_t *))api[INT_ATTRIBUTE];
		fault = number(info, "num_heads", &k->heads);
		if (!fault) fault = number(info, "kv_num_heads", &k->kv);
		if (!fault) fault = ((status(*)(const void *, const char *, float *))api[FLOAT_ATTRIBUTE])(info, "scale", &k->scale);
	}
	if (!fault) fault = processor_memory(api, &k->memory);
	if (fault) {
		free(k);
		return fault;
	}
	*out = k;
	return NULL;
}

void *make_domain(void **api, int wide) {
	void *domain = NULL;
	status fault = ((status(*)(const char *, void **))api[CREATE_DOMAIN])(OPERATORS_DOMAIN, &domain);
	for (int i = 0; i < 2 && !fault; i++) fault = ((status(*)(void *, const operator *))api[ADD_OPERATOR])(domain, &operators[wide][i]);
	if (!fault) fault = ((status(*)(void *, const void *))api[ADD_OPERATOR])(domain, block_product(wide));
	if (!fault) fault = ((status(*)(void *, const void *))api[ADD_OPERATOR])(domain, float_product());
	if (!fault) return domain;
	((void (*)(void *))api[RELEASE_STATUS])(fault);
	if (domain) drop_domain(api, domain);
	return NULL;
}

status add_domain(void **api, void *options, void *domain) { return ((status(*)(void *, void *))api[ADD_DOMAIN])(options, domain); }

void drop_domain(void **api, void *domain) { ((void (*)(void *))api[RELEASE_DOMAIN])(domain); }
