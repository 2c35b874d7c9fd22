#pragma once
#include "kernels.h"

#define OPERATORS_DOMAIN "clara"

typedef void *status;

// make_domain makes the operators known to the runtime with this table, in the widest vectors or those of half the width;
// NULL if it refuses. drop_domain takes it back once the session that has it is closed.
void *make_domain(void **api, int wide);
void drop_domain(void **api, void *domain);

// block_product is the operator of blocks.h.
const void *block_product(int wide);

// float_product is the operator of floats.h.
const void *float_product(void);

// add_domain gives them to a session's options, and returns a status.
status add_domain(void **api, void *options, void *domain);
