// Eight floats in one AVX2 register; needs FMA and F16C too. With CG_VNNI, byte products by AVX-512 VNNI,
// with CG_AVXVNNI as well, in AVX-VNNI's encoding.
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
CG_INLINE void store_f16(uint8_t* p, F a) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
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
CG_INLINE F select_less(F a, F b, F yes, F no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
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
// Into the second cache.
CG_INLINE void prefetch_far(const uint8_t* p) { _mm_prefetch((const char*)p, _MM_HINT_T1); }

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

using I = __m256i;

CG_INLINE I load_ints(const int32_t* p) { return load_bytes(p); }
CG_INLINE I add(I a, I b) { return _mm256_add_epi32(a, b); }
CG_INLINE F to_float(I a) { return _mm256_cvtepi32_ps(a); }

CG_INLINE int32_t sum(I a) {
  __m128i r = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  r = _mm_add_epi32(r, _mm_unpackhi_epi64(r, r));
  return _mm_cvtsi128_si32(_mm_add_epi32(r, _mm_shuffle_epi32(r, 1)));
}

CG_INLINE int32_t pack_i8(const F in[4], int8_t* out) {
  __m256i v[4];
  for (int i = 0; i < 4; i++) v[i] = _mm256_cvtps_epi32(in[i]);
  // Packing works within 128-bit halves; the permutation puts the dwords back in order.
  const __m256i a = _mm256_packs_epi32(v[0], v[1]), b = _mm256_packs_epi32(v[2], v[3]);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256((__m256i*)out, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order));
  return sum(add(add(v[0], v[1]), add(v[2], v[3])));
}

// Weights are multiplied as unsigned bytes: the zero points that activations' offsets take off again.
constexpr int32_t kQ4ZeroPoint = 8;
#if defined(CG_VNNI)
constexpr int32_t kI8ZeroPoint = 128;
#else
constexpr int32_t kI8ZeroPoint = 0;
#endif

// Adds products of unsigned and signed bytes, in sums of four.
CG_INLINE I add_products(I sums, __m256i u, __m256i s) {
#if defined(CG_AVXVNNI)
  return _mm256_dpbusd_avx_epi32(sums, u, s);
#elif defined(CG_VNNI)
  return _mm256_dpbusd_epi32(sums, u, s);
#else
  return add(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1)));
#endif
}

// Of four vectors, sums of four neighbours: first the low halves' of each, then the high halves'.
CG_INLINE I sum_fours(const I v[4]) {
  const I a = add(_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
  const I b = add(_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
  return add(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

// The block of a group that each lane of its products has.
constexpr int kQ4Order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
constexpr int kI8Order[8] = {0, 1, 2, 3, 4, 5, 6, 7};

template <Format format>
CG_INLINE F in_lane_order(F a) {
  if constexpr (format == Format::q4) {
    return _mm256_permutevar8x32_ps(a, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
  } else {
    return a;
  }
}

// Eight Q4 blocks, two of them in each pair of vectors.
struct Q4Group {
  __m256i low[4], high[4];
};

CG_INLINE I dot(const Q4Group& w, const int8_t* x) {
  I v[4];
#if defined(CG_VNNI)
  for (int i = 0; i < 4; i++) {
    v[i] = add_products(_mm256_setzero_si256(), w.low[i], load_bytes(x + 64 * i));
    v[i] = add_products(v[i], w.high[i], load_bytes(x + 64 * i + 32));
  }
  return sum_fours(v);
#else
  // All of a block fits 16 bits but for its last sum: 16 * 15 * 127.
  for (int i = 0; i < 4; i++) {
    v[i] = _mm256_add_epi16(_mm256_maddubs_epi16(w.low[i], load_bytes(x + 64 * i)),
                            _mm256_maddubs_epi16(w.high[i], load_bytes(x + 64 * i + 32)));
  }
  const I a = _mm256_add_epi16(_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
  const I b = _mm256_add_epi16(_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
  const I c = _mm256_add_epi16(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
  return _mm256_madd_epi16(c, _mm256_set1_epi16(1));
#endif
}

struct I8Group {
  __m256i values[8];
};

CG_INLINE I dot(const I8Group& w, const int8_t* x) {
  I v[8];
  for (int i = 0; i < 8; i++) {
#if defined(CG_VNNI)
    v[i] = add_products(_mm256_setzero_si256(), w.values[i], load_bytes(x + 32 * i));
#else
    // |w| times x with w's sign; 2 * 128 * 127 fits 16 bits, and x is never -128.
    const __m256i signed_x = _mm256_sign_epi8(load_bytes(x + 32 * i), w.values[i]);
    v[i] = add_products(_mm256_setzero_si256(), _mm256_abs_epi8(w.values[i]), signed_x);
#endif
  }
  const I a = sum_fours(v), b = sum_fours(v + 4);
  return add(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

template <Format format>
CG_INLINE auto load_group(const uint8_t* p) {
  if constexpr (format == Format::q4) {
    const __m256i mask = _mm256_set1_epi8(15);
    Q4Group group;
    for (int i = 0; i < 4; i++) {
      const __m256i packed = load_bytes(p + 32 * i);
      group.low[i] = _mm256_and_si256(packed, mask);
      group.high[i] = _mm256_and_si256(_mm256_srli_epi16(packed, 4), mask);
    }
    return group;
  } else {
    I8Group group;
    for (int i = 0; i < 8; i++) {
      group.values[i] = _mm256_xor_si256(load_bytes(p + 32 * i), _mm256_set1_epi8((char)kI8ZeroPoint));
    }
    return group;
  }
}

// Unpacking panels: sixteen bytes at a time, or twice sixteen.
using Bytes16 = __m128i;
using Bytes32 = __m256i;

CG_INLINE Bytes16 load_16(const uint8_t* p) { return load_half_bytes(p); }
CG_INLINE void store_16(uint8_t* p, Bytes16 a) { _mm_storeu_si128((__m128i*)p, a); }
CG_INLINE Bytes32 load_32(const uint8_t* p) { return load_bytes(p); }
CG_INLINE void store_halves(uint8_t* low, uint8_t* high, Bytes32 a) {
  store_16(low, _mm256_castsi256_si128(a));
  store_16(high, _mm256_extracti128_si256(a, 1));
}
CG_INLINE Bytes32 low_nibbles(Bytes32 a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
CG_INLINE Bytes32 high_nibbles(Bytes32 a) { return low_nibbles(_mm256_srli_epi16(a, 4)); }
CG_INLINE Bytes32 to_panel_i8(Bytes32 a) { return _mm256_xor_si256(a, _mm256_set1_epi8((char)kI8ZeroPoint)); }

// v[i]'s word j becomes v[j]'s word i.
CG_INLINE void transpose_words(Bytes16 v[4]) {
  const __m128i a = _mm_unpacklo_epi32(v[0], v[1]), b = _mm_unpacklo_epi32(v[2], v[3]);
  const __m128i c = _mm_unpackhi_epi32(v[0], v[1]), d = _mm_unpackhi_epi32(v[2], v[3]);
  v[0] = _mm_unpacklo_epi64(a, b);
  v[1] = _mm_unpackhi_epi64(a, b);
  v[2] = _mm_unpacklo_epi64(c, d);
  v[3] = _mm_unpackhi_epi64(c, d);
}

// The same within each half.
CG_INLINE void transpose_words(Bytes32 v[4]) {
  const __m256i a = _mm256_unpacklo_epi32(v[0], v[1]), b = _mm256_unpacklo_epi32(v[2], v[3]);
  const __m256i c = _mm256_unpackhi_epi32(v[0], v[1]), d = _mm256_unpackhi_epi32(v[2], v[3]);
  v[0] = _mm256_unpacklo_epi64(a, b);
  v[1] = _mm256_unpackhi_epi64(a, b);
  v[2] = _mm256_unpacklo_epi64(c, d);
  v[3] = _mm256_unpackhi_epi64(c, d);
}

// The sums of four vectors.
CG_INLINE void sum_four(const F v[4], float* out) {
  const F a = add(_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
  const F b = add(_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
  const F c = add(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(c), _mm256_extractf128_ps(c, 1)));
}

// v[i]'s lane j becomes v[j]'s lane i.
CG_INLINE void transpose(F v[8]) {
  F a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int i = 0; i < 4; i++) {
    v[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}

}  // namespace
}  // namespace cg
