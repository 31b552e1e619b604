// Panels in AVX-512 registers: sixteen rows a vector. Goes with simd/avx2.h, which has everything else.
#pragma once

#include "simd/avx2.h"

namespace cg {
namespace {

constexpr int kWideLanes = 16;
constexpr int kPanelVectors = 2;
constexpr int kPanelTokens = 8;
constexpr int kFloatTokens = 12;
constexpr int kScoreRows = 4;
constexpr int kScoreKeys = 4;
constexpr int kDirectRows = 4;
constexpr int kDirectKeys = 4;
constexpr int kMixRows = 4;
constexpr int kMixVectors = 4;

using W = __m512;
using WideBytes = __m512i;

CG_INLINE W wide_zero() { return _mm512_setzero_ps(); }
CG_INLINE W wide_set1(float value) { return _mm512_set1_ps(value); }
CG_INLINE W load_wide(const float* p) { return _mm512_loadu_ps(p); }
CG_INLINE W load_wide_half(const uint8_t* p) { return _mm512_cvtph_ps(load_bytes(p)); }
CG_INLINE void store(float* p, W a) { _mm512_storeu_ps(p, a); }
CG_INLINE W add(W a, W b) { return _mm512_add_ps(a, b); }
CG_INLINE W mul(W a, W b) { return _mm512_mul_ps(a, b); }
CG_INLINE W fma(W a, W b, W c) { return _mm512_fmadd_ps(a, b, c); }

CG_INLINE void sum_four(const W v[4], float* out) {
  F halves[4];
  for (int i = 0; i < 4; i++) halves[i] = add(_mm512_castps512_ps256(v[i]), _mm512_extractf32x8_ps(v[i], 1));
  sum_four(halves, out);
}

CG_INLINE WideBytes load_wide_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }

template <int>
CG_INLINE WideBytes broadcast_4(const int8_t* p, int t) {
  int32_t word;
  memcpy(&word, p + 4 * t, sizeof word);
  return _mm512_set1_epi32(word);
}

// The products of a block's columns with one token.
template <Format>
struct Dots {
  __m512i sums;

  CG_MEMBER void start(int32_t offset) { sums = _mm512_set1_epi32(offset); }
  CG_MEMBER void add(WideBytes w, WideBytes x) { sums = _mm512_dpbusd_epi32(sums, w, x); }
  CG_MEMBER W finish(int32_t) const { return _mm512_cvtepi32_ps(sums); }
};

}  // namespace
}  // namespace cg
