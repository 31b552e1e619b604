// Panels in AVX2 registers: eight rows a vector.
#pragma once

#include "simd/avx2.h"

// Keeps the compiler from putting off additions: it would hold dozens of products, in memory.
#if defined(_MSC_VER)
#define CG_IN_ORDER(vector)
#else
#define CG_IN_ORDER(vector) asm("" : "+x"(vector))
#endif

namespace cg {
namespace {

// Vectors of rows.
constexpr int kWideLanes = 8;
constexpr int kPanelVectors = 2;
constexpr int kPanelTokens = 4;
constexpr int kFloatTokens = 5;
// Attention: rows and keys, rows and vectors of values per step.
constexpr int kScoreRows = 4;
constexpr int kScoreKeys = 3;
constexpr int kDirectRows = 8;
constexpr int kDirectKeys = 1;
constexpr int kMixRows = 4;
constexpr int kMixVectors = 2;

using W = F;
using WideBytes = __m256i;

CG_INLINE W wide_zero() { return zero(); }
CG_INLINE W wide_set1(float value) { return set1(value); }
CG_INLINE W load_wide(const float* p) { return load(p); }
CG_INLINE W load_wide_half(const uint8_t* p) { return load_f16(p); }
CG_INLINE WideBytes load_wide_bytes(const uint8_t* p) { return load_bytes(p); }

template <int>
CG_INLINE WideBytes broadcast_4(const int8_t* p, int t) {
  int32_t word;
  memcpy(&word, p + 4 * t, sizeof word);
  return _mm256_set1_epi32(word);
}

// The products of a block's columns with one token.
template <Format format>
struct Dots {
  I sums;

#if defined(CG_VNNI)
  CG_MEMBER void start(int32_t offset) { sums = _mm256_set1_epi32(offset); }
  CG_MEMBER void add(WideBytes w, WideBytes x) { sums = add_products(sums, w, x); }
  CG_MEMBER W finish(int32_t) const { return to_float(sums); }
#else
  CG_MEMBER void start(int32_t) { sums = _mm256_setzero_si256(); }
  CG_MEMBER void add(WideBytes w, WideBytes x) {
    if constexpr (format == Format::q4) {  // all of a block fits 16 bits: 16 * 15 * 127
      sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(w, x));
    } else {
      sums = add_products(sums, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    }
    CG_IN_ORDER(sums);
  }
  CG_MEMBER W finish(int32_t offset) const {
    I products = sums;
    if constexpr (format == Format::q4) products = _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
    return to_float(cg::add(products, _mm256_set1_epi32(offset)));
  }
#endif
};

}  // namespace
}  // namespace cg
