//go:build cgo

#include <immintrin.h>
#include <stdint.h>

#define NAME(x) x##_vnni
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")))
#define V __m512
#define I __m512i
#define W 16
#define MOST 8
#define WIDE 12
#define WIDE_V 2
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define SET1(x) _mm512_set1_ps(x)
#define MUL(a, b) _mm512_mul_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define SUM(v) _mm512_reduce_add_ps(v)
#define HALVES(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define ILOAD(p) _mm512_loadu_si512(p)
#define ISET1(x) _mm512_set1_epi32(x)
#define FLOAT(x) _mm512_cvtepi32_ps(x)
#define LOW4(w) _mm512_and_si512(w, _mm512_set1_epi8(15))
#define HIGH4(w) _mm512_and_si512(_mm512_srli_epi32(w, 4), _mm512_set1_epi8(15))
#define UNSIGNED8 1
#define DOT4(sum, w, x) _mm512_dpbusd_epi32(sum, w, x)
#define DOT8(sum, w, x) _mm512_dpbusd_epi32(sum, w, x)
#define PREFETCH(p) _mm_prefetch((const char *)(p) + AHEAD, _MM_HINT_T0)
#define AHEAD 4096

// A code of 4 bits is looked up; one of 8 becomes the last places of 2^23.
#define TABLES __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7)
#define CODE4(w, i) _mm512_permutexvar_ps(_mm512_srli_epi32(w, 4 * (i)), table)
#define CODE8(w, i) _mm512_sub_ps(_mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_srli_epi32(w, 8 * (i)), _mm512_set1_epi32(255), _mm512_set1_epi32(0x4B000000), 0xEA)), _mm512_set1_ps(8388608 + 128))
#define ROUND(x, n, words, sum, scale, total) round16(x, n, words, sum, scale, total)

// round16 rounds n numbers, 16 or 32, to 8 bits, as words of four, and returns their sum, their scale and the sum before.
TARGET static inline __attribute__((always_inline)) void round16(const float *x, int64_t n, int32_t *words, int32_t *sum, float *scale, float *total) {
	__m512 a = _mm512_loadu_ps(x), b = n == 32 ? _mm512_loadu_ps(x + 16) : _mm512_setzero_ps();
	float top = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(a), _mm512_abs_ps(b)));
	__m512 by = _mm512_set1_ps(top > 1e-30f ? 127 / top : 0);
	__m512i p = _mm512_cvtps_epi32(_mm512_mul_ps(a, by)), q = _mm512_cvtps_epi32(_mm512_mul_ps(b, by));
	_mm_storeu_si128((__m128i *)words, _mm512_cvtepi32_epi8(p));
	_mm_storeu_si128((__m128i *)(words + 4), _mm512_cvtepi32_epi8(q));
	*sum = _mm512_reduce_add_epi32(_mm512_add_epi32(p, q));
	*total = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
	*scale = top / 127;
}

#include "blocks_jobs.h"
