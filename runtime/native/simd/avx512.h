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
constexpr int kDirectRows = 8;
constexpr int kDirectKeys = 2;
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

// Tiles: four quarters of a vector have a block each, the four lanes of a quarter a row each.
#define CG_TILES 1

// The first and the last sixteen columns of four neighbouring blocks, as unsigned bytes.
template <Format format>
CG_INLINE void load_half_group(const uint8_t* p, WideBytes* low, WideBytes* high) {
  if constexpr (format == Format::q4) {
    const WideBytes packed = load_wide_bytes(p), mask = _mm512_set1_epi8(15);
    *low = _mm512_and_si512(packed, mask);
    *high = _mm512_and_si512(_mm512_srli_epi16(packed, 4), mask);
  } else {
    const WideBytes zero_point = _mm512_set1_epi8((char)kI8ZeroPoint);
    const WideBytes a = _mm512_xor_si512(load_wide_bytes(p), zero_point);
    const WideBytes b = _mm512_xor_si512(load_wide_bytes(p + 64), zero_point);
    *low = _mm512_shuffle_i32x4(a, b, 0x88);
    *high = _mm512_shuffle_i32x4(a, b, 0xdd);
  }
}

// In each quarter v[i]'s word j becomes v[j]'s word i.
CG_INLINE void transpose_words(WideBytes v[4]) {
  const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpacklo_epi32(v[2], v[3]);
  const __m512i c = _mm512_unpackhi_epi32(v[0], v[1]), d = _mm512_unpackhi_epi32(v[2], v[3]);
  v[0] = _mm512_unpacklo_epi64(a, b);
  v[1] = _mm512_unpackhi_epi64(a, b);
  v[2] = _mm512_unpacklo_epi64(c, d);
  v[3] = _mm512_unpackhi_epi64(c, d);
}

// Word w of each quarter in all of its lanes.
template <int w>
CG_INLINE WideBytes spread_word(WideBytes a) {
  return _mm512_shuffle_epi32(a, (_MM_PERM_ENUM)(w * 0x55));
}

CG_INLINE WideBytes add_products(WideBytes sums, WideBytes u, WideBytes s) {
  return _mm512_dpbusd_epi32(sums, u, s);
}
// Four words, each in all lanes of its quarter.
CG_INLINE WideBytes load_quarters(const int32_t* p) {
  const __m512i order = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  return _mm512_permutexvar_epi32(order, _mm512_castsi128_si512(load_half_bytes(p)));
}
CG_INLINE W load_quarters(const float* p) { return _mm512_castsi512_ps(load_quarters((const int32_t*)p)); }

CG_INLINE WideBytes wide_zero_bytes() { return _mm512_setzero_si512(); }
CG_INLINE WideBytes add(WideBytes a, WideBytes b) { return _mm512_add_epi32(a, b); }
CG_INLINE W to_float(WideBytes a) { return _mm512_cvtepi32_ps(a); }

// Lane r of quarter i is v[r]'s lane i, or its lane 4 + i in the second half.
CG_INLINE W lanes_of_quarters(const F v[4], int half) {
  const W a = _mm512_insertf32x8(_mm512_castps256_ps512(v[0]), v[1], 1);
  const W b = _mm512_insertf32x8(_mm512_castps256_ps512(v[2]), v[3], 1);
  const __m512i first = _mm512_setr_epi32(0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27);
  return _mm512_permutex2var_ps(a, _mm512_add_epi32(first, _mm512_set1_epi32(4 * half)), b);
}

CG_INLINE W swap_neighbours(W a) { return _mm512_shuffle_f32x4(a, a, 0xb1); }  // quarters 1, 0, 3, 2
CG_INLINE W swap_halves(W a) { return _mm512_shuffle_f32x4(a, a, 0x4e); }      // quarters 2, 3, 0, 1

}  // namespace
}  // namespace cg
