//go:build cgo

#include <immintrin.h>

#define NAME(x) x##_avx512
#define TARGET __attribute__((target("avx512f,avx512dq,fma")))
#define V __m512
#define W 16
#define NV 3
#define MOST 9
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define SET1(x) _mm512_set1_ps(x)
#define ADD(a, b) _mm512_add_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)

#include "floats_jobs.h"

_Static_assert(PANEL_ROWS == WIDTH_AVX512, "the width of a panel");
