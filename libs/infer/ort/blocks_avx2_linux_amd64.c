//go:build cgo

#include <immintrin.h>
#include <stdint.h>

#define NAME(x) x##_blocks_avx2
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define V __m256
#define I __m256i
#define W 8
#define MOST 4
#define WIDE 6
#define WIDE_V 2
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, v) _mm256_storeu_ps(p, v)
#define SET1(x) _mm256_set1_ps(x)
#define MUL(a, b) _mm256_mul_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define SUM(v) add8(v)
#define HALVES(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define ILOAD(p) _mm256_loadu_si256((const __m256i *)(p))
#define ISET1(x) _mm256_set1_epi32(x)
#define FLOAT(x) _mm256_cvtepi32_ps(x)
#define LOW4(w) _mm256_and_si256(w, _mm256_set1_epi8(15))
#define HIGH4(w) _mm256_and_si256(_mm256_srli_epi32(w, 4), _mm256_set1_epi8(15))
#define PREFETCH(p) _mm_prefetch((const char *)(p) + AHEAD, _MM_HINT_T0)
#define AHEAD 4096

// Pairs are added in 16 bits: codes of 8 bits less 128 give their sign to the other number, so that none is lost.
#define UNSIGNED8 0
#define DOT4(sum, w, x) _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)))
#define DOT8(sum, w, x) dot8(sum, _mm256_xor_si256(w, _mm256_set1_epi8(-128)), x)
#define TABLES (void)0
#define CODE4(w, i) _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_and_si256(_mm256_srli_epi32(w, 4 * (i)), _mm256_set1_epi32(15)), _mm256_set1_epi32(8)))
#define CODE8(w, i) _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_and_si256(_mm256_srli_epi32(w, 8 * (i)), _mm256_set1_epi32(255)), _mm256_set1_epi32(128)))
#define ROUND(x, n, words, sum, scale, total) round8(x, n, words, sum, scale, total)

TARGET static inline __m256i dot8(__m256i sum, __m256i w, __m256i x) {
	__m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
	return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

TARGET static inline float add8(__m256 v) {
	__m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	x = _mm_add_ps(x, _mm_movehl_ps(x, x));
	return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}

// round8 rounds n numbers, 16 or 32, to 8 bits, as words of four, and returns their sum, their scale and the sum before.
TARGET static inline void round8(const float *x, int64_t n, int32_t *words, int32_t *sum, float *scale, float *total) {
	__m256 most = _mm256_setzero_ps(), all = _mm256_setzero_ps();
	for (int64_t i = 0; i < n; i += 8) {
		__m256 v = _mm256_loadu_ps(x + i);
		most = _mm256_max_ps(most, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v));
		all = _mm256_add_ps(all, v);
	}
	__m128 m = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
	m = _mm_max_ps(m, _mm_movehl_ps(m, m));
	float top = _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
	__m256 by = _mm256_set1_ps(top > 1e-30f ? 127 / top : 0);
	*sum = 0;
	for (int64_t i = 0; i < n; i += 8) {
		__m256i v = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), by));
		__m128i w = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
		__m128i b = _mm_packs_epi16(w, w);
		_mm_storel_epi64((__m128i *)(words + i / 4), b);
		w = _mm_madd_epi16(w, _mm_set1_epi16(1));
		w = _mm_add_epi32(w, _mm_srli_si128(w, 8));
		*sum += _mm_cvtsi128_si32(w) + _mm_extract_epi32(w, 1);
	}
	*total = add8(all);
	*scale = top / 127;
}

#include "blocks_jobs.h"
