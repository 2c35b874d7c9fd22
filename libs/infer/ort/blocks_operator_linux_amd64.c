//go:build cgo

// BlockProduct: x [.., in] times a matrix in blocks [out, in], which the node names by its address, gives [.., out].

#include "blocks.h"
#include "runtime.h"

// block_kernel is its node in a session.
typedef struct {
	table api;
	void *memory;
	const matrix *weights; // the session holds it
	void (*plan)(product_call *);
	job lay, multiply;
} block_kernel;

static status multiply_all(void *self, void *context, void *call) {
	block_kernel *k = self;
	product_call *t = call;
	TRY(parallel(k->api, context, k->lay, t->tiles, t));
	return parallel(k->api, context, k->multiply, (t->tiles + t->chunk - 1) / t->chunk * t->parts, t);
}

static status multiply_blocks(void *self, void *context) {
	block_kernel *k = self;
	tensor x;
	TRY(input(k->api, context, 0, &x));
	if (x.rank < 1 || x.dims[x.rank - 1] != k->weights->in) return refuse(k->api, "product in blocks: an input of another width than the matrix takes");
	product_call t = {.m = k->weights, .rows = 1, .x = x.data};
	for (int64_t i = 0; i < x.rank - 1; i++) t.rows *= x.dims[i];
	x.dims[x.rank - 1] = k->weights->out;
	TRY(output(k->api, context, 0, x.dims, x.rank, &t.y));
	if (t.rows == 0) return NULL;
	k->plan(&t);
	return with_scratch(k->api, k->memory, context, t.tiles * t.tile / sizeof(float), (float **)&t.room, multiply_all, k, &t);
}

static status create_blocks(const operator *op, table api, const void *info, void **out);
static void destroy_blocks(void *self) {
	block_kernel *k = self;
	release_memory(k->api, k->memory);
	free(k);
}

static const char *product_name(const operator *op) { return "BlockProduct"; }

// One for each width of vectors.
static const operator products[2] = {
	OPERATOR(product_name, one, one, floats, required, create_blocks, destroy_blocks, multiply_blocks, nothing_in_place),
	OPERATOR(product_name, one, one, floats, required, create_blocks, destroy_blocks, multiply_blocks, nothing_in_place),
};

const void *block_product(int wide) { return &products[wide && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")]; }

static status create_blocks(const operator *op, table api, const void *info, void **out) {
	status (*number)(const void *, const char *, int64_t *) = (status(*)(const void *, const char *, int64_t *))api[INT_ATTRIBUTE];
	int64_t weights = 0, exact = 0;
	TRY(number(info, "weights", &weights));
	TRY(number(info, "exact", &exact));
	block_kernel *k = calloc(1, sizeof *k);
	if (!k) return refuse(api, "no memory");
	k->api = api;
	k->weights = (const matrix *)(intptr_t)weights;
	if (op == &products[1]) {
		k->plan = exact ? plan_exact_vnni : plan_rounded_vnni;
		k->lay = exact ? lay_exact_vnni : lay_rounded_vnni;
		k->multiply = exact ? multiply_exact_vnni : multiply_rounded_vnni;
	} else {
		k->plan = exact ? plan_exact_blocks_avx2 : plan_rounded_blocks_avx2;
		k->lay = exact ? lay_exact_blocks_avx2 : lay_rounded_blocks_avx2;
		k->multiply = exact ? multiply_exact_blocks_avx2 : multiply_rounded_blocks_avx2;
	}
	status fault = processor_memory(api, &k->memory);
	if (fault) {
		free(k);
		return fault;
	}
	*out = k;
	return NULL;
}
