#pragma once

// What operators need of the runtime's C API.

#include <stdlib.h>
#include "operators.h"

// The places of functions in the runtime's table, see device.go.
enum {
	CREATE_STATUS = 0,
	CREATE_DOMAIN = 26,
	ADD_OPERATOR = 27,
	ADD_DOMAIN = 28,
	TENSOR_DATA = 51,
	DIMENSION_COUNT = 61,
	DIMENSIONS = 62,
	SHAPE_OF = 65,
	CREATE_MEMORY_INFO = 68,
	ALLOCATOR_ALLOC = 75,
	ALLOCATOR_FREE = 76,
	FLOAT_ATTRIBUTE = 85,
	INT_ATTRIBUTE = 86,
	INPUT = 90,
	OUTPUT = 91,
	RELEASE_STATUS = 93,
	RELEASE_MEMORY_INFO = 94,
	RELEASE_SHAPE = 99,
	RELEASE_DOMAIN = 101,
	RELEASE_ALLOCATOR = 132,
	CONTEXT_ALLOCATOR = 253,
	PARALLEL_FOR = 274
};
enum { API_VERSION = 24, FLOAT = 1, INT32 = 6, REQUIRED = 0, OPTIONAL = 1, INVALID_ARGUMENT = 2, ARENA = 1 };

typedef void **table;
typedef void (*job)(void *, size_t);

// operator is OrtCustomOp.
typedef struct operator {
	uint32_t version;
	void *(*create_plain)(const struct operator *, table, const void *);
	const char *(*name)(const struct operator *);
	const char *(*provider)(const struct operator *);
	int (*input_type)(const struct operator *, size_t);
	size_t (*inputs)(const struct operator *);
	int (*output_type)(const struct operator *, size_t);
	size_t (*outputs)(const struct operator *);
	void (*compute_plain)(void *, void *);
	void (*destroy)(void *);
	int (*input_kind)(const struct operator *, size_t);
	int (*output_kind)(const struct operator *, size_t);
	int (*input_memory)(const struct operator *, size_t);
	int (*least_inputs)(const struct operator *);
	int (*same_inputs)(const struct operator *);
	int (*least_outputs)(const struct operator *);
	int (*same_outputs)(const struct operator *);
	status (*create)(const struct operator *, table, const void *, void **);
	status (*compute)(void *, void *);
	status (*infer_shape)(const struct operator *, void *);
	int (*first_version)(const struct operator *);
	int (*last_version)(const struct operator *);
	size_t (*in_place)(int **, int **);
	void (*release_in_place)(int *, int *);
	size_t (*alias)(int **, int **);
	void (*release_alias)(int *, int *);
} operator;

#define TRY(x)                    \
	do {                          \
		status fault = (x);       \
		if (fault) return fault;  \
	} while (0)

static inline status refuse(table api, const char *why) { return ((status(*)(int, const char *))api[CREATE_STATUS])(INVALID_ARGUMENT, why); }

// tensor is an input or output; data is NULL for one that is left out.
typedef struct {
	void *data;
	int64_t rank, dims[8];
} tensor;

static inline status describe(table api, const void *value, tensor *t) {
	void *shape = NULL;
	size_t rank = 0;
	TRY(((status(*)(const void *, void **))api[SHAPE_OF])(value, &shape));
	status fault = ((status(*)(void *, size_t *))api[DIMENSION_COUNT])(shape, &rank);
	if (!fault && rank > 8) fault = refuse(api, "a tensor of more than 8 dimensions");
	if (!fault) fault = ((status(*)(void *, int64_t *, size_t))api[DIMENSIONS])(shape, t->dims, rank);
	((void (*)(void *))api[RELEASE_SHAPE])(shape);
	t->rank = rank;
	return fault;
}

static inline status input(table api, void *context, size_t i, tensor *t) {
	const void *value = NULL;
	t->data = NULL, t->rank = 0;
	TRY(((status(*)(void *, size_t, const void **))api[INPUT])(context, i, &value));
	if (!value) return NULL;
	TRY(((status(*)(const void *, void **))api[TENSOR_DATA])(value, &t->data));
	return describe(api, value, t);
}

static inline status output(table api, void *context, size_t i, const int64_t *dims, size_t rank, float **data) {
	void *value = NULL;
	TRY(((status(*)(void *, size_t, const int64_t *, size_t, void **))api[OUTPUT])(context, i, dims, rank, &value));
	return ((status(*)(void *, float **))api[TENSOR_DATA])(value, data);
}

static inline status parallel(table api, void *context, job f, int64_t jobs, void *call) {
	if (jobs == 1) {
		f(call, 0);
		return NULL;
	}
	return ((status(*)(void *, job, size_t, size_t, void *))api[PARALLEL_FOR])(context, f, jobs, jobs, call);
}

// with_scratch runs then(self, context, call) with n floats at *room.
static inline status with_scratch(table api, void *memory, void *context, int64_t n, float **room, status (*then)(void *, void *, void *), void *self, void *call) {
	void *allocator = NULL;
	TRY(((status(*)(void *, void *, void **))api[CONTEXT_ALLOCATOR])(context, memory, &allocator));
	status fault = ((status(*)(void *, size_t, void **))api[ALLOCATOR_ALLOC])(allocator, (n + 16) * sizeof(float), (void **)room);
	if (!fault) {
		fault = then(self, context, call);
		status freed = ((status(*)(void *, void *))api[ALLOCATOR_FREE])(allocator, *room);
		if (freed) ((void (*)(void *))api[RELEASE_STATUS])(freed);
	}
	((void (*)(void *))api[RELEASE_ALLOCATOR])(allocator);
	return fault;
}

// processor_memory describes where scratch comes from; release_memory lets it go.
static inline status processor_memory(table api, void **memory) {
	return ((status(*)(const char *, int, int, int, void **))api[CREATE_MEMORY_INFO])("Cpu", ARENA, 0, 0, memory);
}
static inline void release_memory(table api, void *memory) { ((void (*)(void *))api[RELEASE_MEMORY_INFO])(memory); }

static inline const char *no_provider(const operator *op) { return NULL; }
static inline size_t one(const operator *op) { return 1; }
static inline int yes(const operator *op) { return 1; }
static inline int last(const operator *op) { return INT32_MAX; }
static inline int floats(const operator *op, size_t i) { return FLOAT; }
static inline int required(const operator *op, size_t i) { return REQUIRED; }
static inline int plain_memory(const operator *op, size_t i) { return 0; }
static inline size_t nothing_in_place(int **in, int **out) { return 0; }
static inline size_t first_in_place(int **in, int **out) {
	*in = calloc(1, sizeof(int)), *out = calloc(1, sizeof(int));
	return *in && *out;
}
static inline void release_places(int *in, int *out) { free(in), free(out); }

// OPERATOR is one with required outputs of floats.
#define OPERATOR(the_name, the_inputs, the_outputs, the_type, the_kind, the_create, the_destroy, the_compute, the_places)       \
	{                                                                                                                           \
		.version = API_VERSION, .name = the_name, .provider = no_provider, .input_type = the_type, .inputs = the_inputs,        \
		.output_type = floats, .outputs = the_outputs, .destroy = the_destroy, .input_kind = the_kind, .output_kind = required, \
		.input_memory = plain_memory, .least_inputs = yes, .same_inputs = yes, .least_outputs = yes, .same_outputs = yes,       \
		.create = the_create, .compute = the_compute, .first_version = yes, .last_version = last, .in_place = the_places,       \
		.release_in_place = release_places, .alias = nothing_in_place, .release_alias = release_places,                         \
	}
