// Panels in NEON registers, with and without the dot product extension. Goes with simd/neon.h, which has
// everything else.
#pragma once

#include "simd/neon.h"

namespace cg {
namespace {

// Unpacking: sixteen bytes at a time.
using Bytes16 = int8x16_t;

CG_INLINE Bytes16 load_16(const uint8_t* p) { return load_signed(p); }
CG_INLINE void store_16(uint8_t* p, Bytes16 a) { vst1q_u8(p, vreinterpretq_u8_s8(a)); }
CG_INLINE Bytes16 low_nibbles(Bytes16 a) { return low_nibbles(vreinterpretq_u8_s8(a)); }
CG_INLINE Bytes16 high_nibbles(Bytes16 a) { return high_nibbles(vreinterpretq_u8_s8(a)); }

// The sums of four vectors.
CG_INLINE void sum_four(const F v[4], float* out) {
  float32x4_t halves[4];
  for (int i = 0; i < 4; i++) halves[i] = vaddq_f32(v[i].low, v[i].high);
  vst1q_f32(out, vpaddq_f32(vpaddq_f32(halves[0], halves[1]), vpaddq_f32(halves[2], halves[3])));
}

// v[i]'s word j becomes v[j]'s word i.
CG_INLINE void transpose_words(float32x4_t v[4]) {
  const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(v[0], v[1]));
  const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(v[0], v[1]));
  const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(v[2], v[3]));
  const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(v[2], v[3]));
  v[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
  v[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
  v[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
  v[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

CG_INLINE void transpose_words(Bytes16 v[4]) {
  float32x4_t words[4];
  for (int i = 0; i < 4; i++) words[i] = vreinterpretq_f32_s8(v[i]);
  transpose_words(words);
  for (int i = 0; i < 4; i++) v[i] = vreinterpretq_s8_f32(words[i]);
}

// v[i]'s lane j becomes v[j]'s lane i.
CG_INLINE void transpose(F v[8]) {
  float32x4_t quarter[4][4];
  for (int i = 0; i < 4; i++) {
    quarter[0][i] = v[i].low;
    quarter[1][i] = v[i].high;
    quarter[2][i] = v[i + 4].low;
    quarter[3][i] = v[i + 4].high;
  }
  for (auto& words : quarter) transpose_words(words);
  for (int i = 0; i < 4; i++) {
    v[i] = {quarter[0][i], quarter[2][i]};
    v[i + 4] = {quarter[1][i], quarter[3][i]};
  }
}

// Vectors of rows. As many tokens as the 32 registers have room for.
constexpr int kWideLanes = 8;
constexpr int kPanelVectors = 1;
#if defined(CG_DOTPROD)
constexpr int kPanelTokens = 4;
#else
constexpr int kPanelTokens = 2;
#endif
constexpr int kFloatTokens = 12;
// Attention: rows and keys, rows and vectors of values per step.
constexpr int kScoreRows = 2;
constexpr int kScoreKeys = 4;
constexpr int kDirectRows = 2;
constexpr int kDirectKeys = 4;
constexpr int kMixRows = 4;
constexpr int kMixVectors = 2;

using W = F;

struct WideBytes {
  int8x16_t low, high;
};

CG_INLINE W wide_zero() { return zero(); }
CG_INLINE W wide_set1(float value) { return set1(value); }
CG_INLINE W load_wide(const float* p) { return load(p); }
CG_INLINE W load_wide_half(const uint8_t* p) { return load_f16(p); }
CG_INLINE WideBytes load_wide_bytes(const uint8_t* p) { return {load_signed(p), load_signed(p + 16)}; }

// Four columns of token t of T. Each variant of Dots is the products of a block's columns with one token.
#if defined(CG_DOTPROD)
// The multiplication picks the token, so that all T share a register.
struct Four {
  int8x16_t tokens;
  int t;
};

template <int T>
CG_INLINE Four broadcast_4(const int8_t* p, int t) {
  if constexpr (T == 4) return {vld1q_s8(p), t};
  int64_t tokens = 0;
  memcpy(&tokens, p, T == 1 ? 4 : 8);
  return {vreinterpretq_s8_s64(vdupq_n_s64(tokens)), t};
}

CG_INLINE int32x4_t add_dots(int32x4_t sums, int8x16_t w, Four x) {
  switch (x.t) {
    case 0: return vdotq_laneq_s32(sums, w, x.tokens, 0);
    case 1: return vdotq_laneq_s32(sums, w, x.tokens, 1);
    case 2: return vdotq_laneq_s32(sums, w, x.tokens, 2);
    default: return vdotq_laneq_s32(sums, w, x.tokens, 3);
  }
}

template <Format>
struct Dots {
  I sums;

  CG_MEMBER void start(int32_t offset) { sums = {vdupq_n_s32(offset), vdupq_n_s32(offset)}; }
  CG_MEMBER void add(WideBytes w, Four x) {
    sums = {add_dots(sums.low, w.low, x), add_dots(sums.high, w.high, x)};
  }
  CG_MEMBER W finish(int32_t) const { return to_float(sums); }
};
#else
template <int T>
CG_INLINE int8x16_t broadcast_4(const int8_t* p, int t) {
  int32_t word;
  memcpy(&word, p + 4 * t, sizeof word);
  return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

// Sums of two columns each, of two rows more in every vector: of 16 bits for nibbles, else of 32.
template <Format format>
struct Dots;

template <>
struct Dots<Format::q4> {
  int16x8_t sums[4];

  CG_MEMBER void start(int32_t) {
    for (int16x8_t& s : sums) s = vdupq_n_s16(0);
  }
  CG_MEMBER void add(WideBytes w, int8x16_t x) {
    sums[0] = vmlal_s8(sums[0], vget_low_s8(w.low), vget_low_s8(x));
    sums[1] = vmlal_high_s8(sums[1], w.low, x);
    sums[2] = vmlal_s8(sums[2], vget_low_s8(w.high), vget_low_s8(x));
    sums[3] = vmlal_high_s8(sums[3], w.high, x);
  }
  CG_MEMBER W finish(int32_t offset) const {
    const I products{vpaddq_s32(vpaddlq_s16(sums[0]), vpaddlq_s16(sums[1])),
                     vpaddq_s32(vpaddlq_s16(sums[2]), vpaddlq_s16(sums[3]))};
    return to_float(cg::add(products, {vdupq_n_s32(offset), vdupq_n_s32(offset)}));
  }
};

template <>
struct Dots<Format::i8> {
  int32x4_t sums[4];

  CG_MEMBER void start(int32_t) {
    for (int32x4_t& s : sums) s = vdupq_n_s32(0);
  }
  CG_MEMBER void add(WideBytes w, int8x16_t x) {
    sums[0] = vpadalq_s16(sums[0], vmull_s8(vget_low_s8(w.low), vget_low_s8(x)));
    sums[1] = vpadalq_s16(sums[1], vmull_high_s8(w.low, x));
    sums[2] = vpadalq_s16(sums[2], vmull_s8(vget_low_s8(w.high), vget_low_s8(x)));
    sums[3] = vpadalq_s16(sums[3], vmull_high_s8(w.high, x));
  }
  CG_MEMBER W finish(int32_t) const {  // bytes have no offset
    return to_float(I{vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3])});
  }
};
#endif

}  // namespace
}  // namespace cg

#include "simd/two_halves.h"
