//go:build cgo

// FloatProduct: x [.., in] times a matrix of floats [out, in], which the node names by its address, gives [.., out].

#include <string.h>
#include "floats.h"
#include "runtime.h"

void lay_floats(const float_matrix *m, int64_t first, int64_t n, const float *rows) {
	enum { LINE_NUMBERS = 16 };
	for (int64_t from = first; from < first + n;) {
		int64_t panel = from / m->width, end = (panel + 1) * m->width < first + n ? (panel + 1) * m->width : first + n;
		for (int64_t s = 0; s < slices(m); s++) {
			int64_t k0 = slice_begin(m, s), depth = slice_begin(m, s + 1) - k0;
			float *to = m->at + k0 * float_panels(m) * m->width + panel * depth * m->width;
			for (int64_t k = 0; k < depth; k += LINE_NUMBERS)
				for (int64_t row = from; row < end; row++)
					for (int64_t i = k; i < depth && i < k + LINE_NUMBERS; i++)
						to[i * m->width + row % m->width] = rows ? rows[(row - first) * m->in + k0 + i] : 0;
		}
		from = end;
	}
}

// float_kernel is its node in a session.
typedef struct {
	table api;
	const float_matrix *weights; // the session holds it
	int64_t (*plan)(float_call *);
	job multiply;
} float_kernel;

static status multiply_floats(void *self, void *context) {
	float_kernel *k = self;
	tensor x;
	TRY(input(k->api, context, 0, &x));
	if (x.rank < 1 || x.dims[x.rank - 1] != k->weights->in) return refuse(k->api, "product: an input of another width than the matrix takes");
	float_call t = {.m = k->weights, .rows = 1, .x = x.data};
	for (int64_t i = 0; i < x.rank - 1; i++) t.rows *= x.dims[i];
	x.dims[x.rank - 1] = k->weights->out;
	TRY(output(k->api, context, 0, x.dims, x.rank, &t.y));
	if (t.rows == 0) return NULL;
	return parallel(k->api, context, k->multiply, k->plan(&t), &t);
}

static status create_floats(const operator *op, table api, const void *info, void **out) {
	int64_t weights = 0;
	TRY(((status(*)(const void *, const char *, int64_t *))api[INT_ATTRIBUTE])(info, "weights", &weights));
	float_kernel *k = calloc(1, sizeof *k);
	if (!k) return refuse(api, "no memory");
	k->api = api;
	k->weights = (const float_matrix *)(intptr_t)weights;
	int wide = k->weights->width == WIDTH_AVX512;
	k->plan = wide ? plan_floats_avx512 : plan_floats_avx2;
	k->multiply = wide ? multiply_floats_avx512 : multiply_floats_avx2;
	*out = k;
	return NULL;
}

static void destroy_floats(void *self) { free(self); }
static const char *product_name(const operator *op) { return "FloatProduct"; }

static const operator product = OPERATOR(product_name, one, one, floats, required, create_floats, destroy_floats, multiply_floats, nothing_in_place);

const void *float_product(void) { return &product; }
