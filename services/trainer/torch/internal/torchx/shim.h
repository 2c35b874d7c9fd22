// What gotch lacks, as C calls. Every function returns NULL or a malloc'd error text; a "tensor" is gotch's handle
// (torch::Tensor *), and a tensor that a call hands out is the caller's to free.
#pragma once
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

// memory
char *cx_from_host(const void *data, const int64_t *dims, int nd, int dtype, int device, void **out); // copies
char *cx_view_host(void *data, const int64_t *dims, int nd, int dtype, void **out);                   // does not
char *cx_to_host(void *t, void *buf, size_t bytes);
char *cx_info(void *t, int64_t *dims, int *nd, int *dtype, int *device, int *requires_grad);
void cx_free(void *t);
void cx_free_all(void **t, int n);
char *cx_alias(void *t, void **out);                                                     // a second handle
char *cx_clone(void *t, void **out);
char *cx_empty(const int64_t *dims, int nd, int dtype, int device, void **out);           // not initialised
char *cx_bytes(void *t, void **out);                                                     // uint8 [bytes], shared if contiguous
char *cx_from_row(void *row, int64_t at, const int64_t *dims, int nd, int dtype, void **out); // shared
char *cx_copy_(void *dst, void *src);
char *cx_add_(void *dst, void *src, double alpha);
char *cx_mul_(void *dst, double factor);
char *cx_index_copy_(void *dst, void *rows, void *src);

// process
char *cx_version(char *buf, int n);
void cx_set_threads(int intra);
int cx_get_threads(void);
int cx_set_grad_mode(int on); // of the calling OS thread; returns the old one
char *cx_seed(uint64_t seed);
char *cx_rng_state(void **out);
char *cx_set_rng_state(void *state);
char *cx_randperm(int64_t seed, int64_t n, int64_t *out); // torch.randperm of a generator of its own
char *cx_load_cuda(void);
int cx_cuda_devices(void);
char *cx_cuda_memory(int device, int64_t *now, int64_t *peak);
char *cx_cuda_free(int device, int64_t *bytes);
char *cx_sync(int device);
char *cx_sdp(int flash, int efficient, int math);
void cx_deterministic(int on);

// autograd
char *cx_backward(void **outs, void **grads, int n, int keep_graph);
char *cx_grad(void *t, void **out); // *out NULL: none
char *cx_set_grad(void *t, void *grad);
char *cx_zero_grads(void **params, int n);
char *cx_require_grad(void *t);
char *cx_leaf(void *t, int requires_grad, void **out); // detached handle on the same memory

// operators, differentiable
char *cx_linear(void *x, void *w, void *scale, int bits, void *bias, void *a, void *b, double lora_scale, double dropout, uint64_t seed, void **out);
char *cx_rms_norm(void *x, void *w, double eps, void **out);
char *cx_rope(void *x, void *cos, void *sin, void **out);
char *cx_swiglu(void *gate, void *up, void **out);
char *cx_attention(void *q, void *k, void *v, const int64_t *lens, int n, double scale, int64_t window, void **out);
char *cx_attend_cache(void *q, void *k, void *v, double scale, void **out);
char *cx_linear_ce(void *h, void *w, void *labels, void *rows, void *row_ids, int64_t chunk, void **loss, void **each);
char *cx_quantize(void *w, int bits, void **q, void **scale);

// optimizer
char *cx_clip_grad_norm(void **params, int n, double max, double *norm);
char *cx_adamw(void **p, void **m, void **v, int n, int64_t step, double lr, double b1, double b2, double eps, double wd);

// several processes
char *cx_store(const char *host, int port, int world, int server, int timeout_ms, void **store);
char *cx_group(const char *backend, const char *iface, void *store, int rank, int world, int timeout_ms, void **group);
char *cx_all_reduce(void *group, void **tensors, int n);
char *cx_all_reduce_f64(void *group, int cuda, double *values, int n);
char *cx_broadcast(void *group, void **tensors, int n, int root);
char *cx_all_gather(void *group, void *in, void *out);
char *cx_barrier(void *group);
void cx_free_group(void *group);
void cx_free_store(void *store);

#ifdef __cplusplus
}
#endif
