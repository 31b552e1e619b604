// Eight floats in one AVX2 register; needs FMA and F16C too. With CG_VNNI, byte products by AVX-512 VNNI.
#pragma once

#include <immintrin.h>
#include <string.h>

namespace cg {
namespace {

constexpr int kLanes = 8;

using F = __m256;

CG_INLINE F set1(float value) { return _mm256_set1_ps(value); }
CG_INLINE F zero() { return _mm256_setzero_ps(); }
CG_INLINE F load(const float* p) { return _mm256_loadu_ps(p); }
CG_INLINE void store(float* p, F a) { _mm256_storeu_ps(p, a); }

CG_INLINE __m256i load_bytes(const void* p) { return _mm256_loadu_si256((const __m256i*)p); }
CG_INLINE __m128i load_half_bytes(const void* p) { return _mm_loadu_si128((const __m128i*)p); }

CG_INLINE F load_f32(const uint8_t* p) { return _mm256_castsi256_ps(load_bytes(p)); }
CG_INLINE F load_f16(const uint8_t* p) { return _mm256_cvtph_ps(load_half_bytes(p)); }
CG_INLINE F load_bf16(const uint8_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_half_bytes(p)), 16));
}

CG_INLINE F add(F a, F b) { return _mm256_add_ps(a, b); }
CG_INLINE F sub(F a, F b) { return _mm256_sub_ps(a, b); }
CG_INLINE F mul(F a, F b) { return _mm256_mul_ps(a, b); }
CG_INLINE F div(F a, F b) { return _mm256_div_ps(a, b); }
CG_INLINE F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
CG_INLINE F max(F a, F b) { return _mm256_max_ps(a, b); }
CG_INLINE F min(F a, F b) { return _mm256_min_ps(a, b); }
CG_INLINE F at_least(F a, F b) { return _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ), set1(1.0f)); }
CG_INLINE F truncate(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC); }
CG_INLINE F floor(F a) { return _mm256_floor_ps(a); }
CG_INLINE F exp2_of_biased(F a) {
  const __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(a), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(shifted, _mm256_set1_epi32(0x3f800000)));
}

CG_INLINE float sum(F a) {
  __m128 r = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  r = _mm_add_ps(r, _mm_movehl_ps(r, r));
  return _mm_cvtss_f32(_mm_add_ss(r, _mm_movehdup_ps(r)));
}

CG_INLINE float largest(F a) {
  __m128 r = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  r = _mm_max_ps(r, _mm_movehl_ps(r, r));
  return _mm_cvtss_f32(_mm_max_ss(r, _mm_movehdup_ps(r)));
}

CG_INLINE void prefetch(const uint8_t* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

CG_INLINE F floats_of_bytes(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)); }

CG_INLINE void unpack_half(__m128i bytes, F out[2]) {
  out[0] = floats_of_bytes(bytes);
  out[1] = floats_of_bytes(_mm_unpackhi_epi64(bytes, bytes));
}

CG_INLINE void unpack_i8(const uint8_t* p, F out[4]) {
  unpack_half(load_half_bytes(p), out);
  unpack_half(load_half_bytes(p + 16), out + 2);
}

CG_INLINE void unpack_q4(const uint8_t* p, F out[4]) {
  const __m128i packed = load_half_bytes(p), mask = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
  unpack_half(_mm_sub_epi8(_mm_and_si128(packed, mask), eight), out);
  unpack_half(_mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(packed, 4), mask), eight), out + 2);
}

CG_INLINE void pack_i8(const F in[4], int8_t* out) {
  // Packing works within 128-bit halves; the permutation puts the dwords back in order.
  const __m256i a = _mm256_packs_epi32(_mm256_cvtps_epi32(in[0]), _mm256_cvtps_epi32(in[1]));
  const __m256i b = _mm256_packs_epi32(_mm256_cvtps_epi32(in[2]), _mm256_cvtps_epi32(in[3]));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256((__m256i*)out, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order));
}

// Sums of four products of unsigned and signed bytes; the pairwise sums must fit 16 bits.
CG_INLINE __m256i multiply_bytes(__m256i sums, __m256i u, __m256i s) {
#if defined(CG_VNNI)
  return _mm256_dpbusd_epi32(sums, u, s);
#else
  return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
#endif
}

struct Q4Pair {
  __m256i low, high;
};

CG_INLINE Q4Pair load_q4_pair(const uint8_t* p) {
  const __m256i packed = load_bytes(p), mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(packed, mask), _mm256_and_si256(_mm256_srli_epi16(packed, 4), mask)};
}

CG_INLINE F dot(Q4Pair w, const int8_t* x) {
  const __m256i first = load_bytes(x), second = load_bytes(x + 32);
#if defined(CG_VNNI)
  return _mm256_cvtepi32_ps(
      multiply_bytes(multiply_bytes(_mm256_setzero_si256(), w.low, first), w.high, second));
#else
  // 4 * 15 * 127 fits 16 bits, so the two halves can be added there.
  const __m256i pairs =
      _mm256_add_epi16(_mm256_maddubs_epi16(w.low, first), _mm256_maddubs_epi16(w.high, second));
  return _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

struct I8Block {
  __m256i values;
};

CG_INLINE I8Block load_i8_block(const uint8_t* p) { return {load_bytes(p)}; }

CG_INLINE F dot(I8Block w, const int8_t* x) {
  // |w| times x with w's sign; 2 * 128 * 127 fits 16 bits, and x is never -128.
  const __m256i signed_x = _mm256_sign_epi8(load_bytes(x), w.values);
  return _mm256_cvtepi32_ps(multiply_bytes(_mm256_setzero_si256(), _mm256_abs_epi8(w.values), signed_x));
}

template <int J>
CG_INLINE F spread_pair(F a) {
  return _mm256_permutevar8x32_ps(
      a, _mm256_setr_epi32(2 * J, 2 * J, 2 * J, 2 * J, 2 * J + 1, 2 * J + 1, 2 * J + 1, 2 * J + 1));
}

template <int J>
CG_INLINE F spread(F a) {
  return _mm256_permutevar8x32_ps(a, _mm256_set1_epi32(J));
}

}  // namespace
}  // namespace cg
