// Float32 kernels for the CPU. A product is cut by rows (tokens) or columns over the threads, and each thread multiplies its
// part alone: inside the library's own threaded products the threads wait for each other many times a call, which costs a
// tenth of a step where matrices are as small as those of a model of a few hundred million weights.
#pragma once
#include "shim.hpp"
#include <ATen/Parallel.h>
#include <cmath>

#ifndef _OPENMP
#error "without -fopenmp at::parallel_for uses one thread"
#endif

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EVERY_CPU __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3,fast-math")))
#else
#define FOR_EVERY_CPU
#endif

// Fortran's BLAS, which PyTorch's own builds of libtorch carry; weak, because others need not.
extern "C" __attribute__((weak)) void sgemm_(const char *ta, const char *tb, const int *m, const int *n, const int *k, const float *alpha, const float *a, const int *lda,
                                             const float *b, const int *ldb, const float *beta, float *c, const int *ldc);

namespace rows {

// fits reports whether these kernels are for t; they take contiguous tensors.
inline bool fits(const torch::Tensor &t) { return t.is_cpu() && t.scalar_type() == torch::kFloat && sgemm_; }

// gemm is column-major: c [m, n] = f op(a) [m, k] op(b) [k, n] + beta c
inline void gemm(char ta, char tb, int64_t m, int64_t n, int64_t k, float f, const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc) {
  int im = int(m), in = int(n), ik = int(k), ia = int(lda), ib = int(ldb), ic = int(ldc);
  if (m && n) sgemm_(&ta, &tb, &im, &in, &ik, &f, a, &ia, b, &ib, &beta, c, &ic);
}

// split cuts n rows into one part a thread, of at least least rows, and calls f(part, from, to) for all of them side by side.
template <typename F> int64_t split(int64_t n, int64_t least, const F &f) {
  int64_t parts = std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), n / least));
  int64_t each = (n + parts - 1) / parts;
  at::parallel_for(0, parts, 1, [&](int64_t from, int64_t to) {
    for (int64_t p = from; p < to; p++)
      if (p * each < n) f(p, p * each, std::min(n, (p + 1) * each));
  });
  return parts;
}

// The products below take row-major matrices; gemm is column-major, so left and right are swapped.

// y [n, out] = f x [n, in] w' + beta y, w [out, in]
inline void times_transposed(const float *x, const float *w, float *y, int64_t n, int64_t in, int64_t out, float f, float beta, int64_t ldy = 0) {
  gemm('T', 'N', out, n, in, f, w, in, x, in, beta, y, ldy ? ldy : out);
}
// y [n, in] = f x [n, out] w + beta y, w [out, in]; of in, columns from an offset where ldw and ldy say so
inline void times(const float *x, const float *w, float *y, int64_t n, int64_t out, int64_t in, float f, float beta, int64_t ldw = 0, int64_t ldy = 0) {
  gemm('N', 'N', in, n, out, f, w, ldw ? ldw : in, x, out, beta, y, ldy ? ldy : in);
}
// y [a, b] = f x' z, x [n, a], z [n, b]
inline void transposed_times(const float *x, const float *z, float *y, int64_t n, int64_t a, int64_t b, float f) {
  gemm('N', 'T', b, a, n, f, z, b, x, a, 0.f, y, b);
}

// x [n, h] over its root mean square, times w; r [n] keeps what each row was multiplied by.
FOR_EVERY_CPU inline void rms_norm(const float *x, const float *w, float *y, float *r, int64_t n, int64_t h, float eps) {
  for (int64_t i = 0; i < n; i++, x += h, y += h) {
    float sum = 0;
    for (int64_t j = 0; j < h; j++) sum += x[j] * x[j];
    float f = 1 / std::sqrt(sum / float(h) + eps);
    r[i] = f;
    for (int64_t j = 0; j < h; j++) y[j] = x[j] * f * w[j];
  }
}
FOR_EVERY_CPU inline void rms_norm_back(const float *x, const float *w, const float *r, const float *dy, float *dx, int64_t n, int64_t h) {
  for (int64_t i = 0; i < n; i++, x += h, dy += h, dx += h) {
    float dot = 0;
    for (int64_t j = 0; j < h; j++) dot += dy[j] * w[j] * x[j];
    float f = r[i], g = dot * f * f / float(h);
    for (int64_t j = 0; j < h; j++) dx[j] = (dy[j] * w[j] - x[j] * g) * f;
  }
}

// Rotates the first 2 * half of d columns of n heads; cos and sin [half].
FOR_EVERY_CPU inline void rotate(const float *x, const float *cos, const float *sin, float *y, int64_t n, int64_t d, int64_t half, float sign) {
  for (int64_t i = 0; i < n; i++, x += d, y += d) {
    for (int64_t j = 0; j < half; j++) {
      float a = x[j], b = x[half + j], s = sign * sin[j];
      y[j] = a * cos[j] - b * s;
      y[half + j] = b * cos[j] + a * s;
    }
    for (int64_t j = 2 * half; j < d; j++) y[j] = x[j];
  }
}

// e^x to 2 units in the last place, for any x. It calls nothing, not even std::min: what a clone for a processor calls is not
// inlined into it unless it must be, and a call keeps a loop from being vectorised (12 times as slow).
__attribute__((always_inline)) inline float exponential(float x) {
  x = x > 88.f ? 88.f : x < -87.f ? -87.f : x;
  int32_t n = int32_t(x * 1.44269504f + (x < 0 ? -.5f : .5f));
  float f = x - float(n) * 0.693359375f + float(n) * 2.12194440e-4f;
  float p = ((((1.9875691500e-4f * f + 1.3981999507e-3f) * f + 8.3334519073e-3f) * f + 4.1665795894e-2f) * f + 1.6666665459e-1f) * f + 5.0000001201e-1f;
  int32_t bits = (n + 127) << 23;
  float scale;
  __builtin_memcpy(&scale, &bits, 4);
  return (p * f * f + f + 1) * scale;
}
FOR_EVERY_CPU inline void swiglu(const float *g, const float *u, float *y, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = g[i] * u[i] / (1 + exponential(-g[i]));
}
FOR_EVERY_CPU inline void swiglu_back(const float *g, const float *u, const float *dy, float *dg, float *du, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    float s = 1 / (1 + exponential(-g[i]));
    du[i] = dy[i] * g[i] * s;
    dg[i] = dy[i] * u[i] * s * (1 + g[i] * (1 - s));
  }
}

} // namespace rows
