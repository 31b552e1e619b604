// Eight floats in two NEON registers (arm64). With CG_DOTPROD, byte products by the dot product extension.
#pragma once

#include <arm_neon.h>
#include <string.h>

namespace cg {
namespace {

constexpr int kLanes = 8;

struct F {
  float32x4_t low, high;
};

CG_INLINE F set1(float value) { return {vdupq_n_f32(value), vdupq_n_f32(value)}; }
CG_INLINE F zero() { return set1(0.0f); }
CG_INLINE F load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
CG_INLINE void store(float* p, F a) {
  vst1q_f32(p, a.low);
  vst1q_f32(p + 4, a.high);
}

// Byte loads have no alignment.
CG_INLINE F load_f32(const uint8_t* p) {
  return {vreinterpretq_f32_u8(vld1q_u8(p)), vreinterpretq_f32_u8(vld1q_u8(p + 16))};
}
CG_INLINE F load_f16(const uint8_t* p) {
  const float16x8_t half = vreinterpretq_f16_u8(vld1q_u8(p));
  return {vcvt_f32_f16(vget_low_f16(half)), vcvt_f32_f16(vget_high_f16(half))};
}
CG_INLINE F load_bf16(const uint8_t* p) {
  const uint16x8_t bits = vreinterpretq_u16_u8(vld1q_u8(p));
  return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(bits), 16)),
          vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(bits), 16))};
}

CG_INLINE F add(F a, F b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
CG_INLINE F sub(F a, F b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
CG_INLINE F mul(F a, F b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
CG_INLINE F div(F a, F b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
CG_INLINE F fma(F a, F b, F c) { return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)}; }
CG_INLINE F max(F a, F b) { return {vmaxq_f32(a.low, b.low), vmaxq_f32(a.high, b.high)}; }
CG_INLINE F min(F a, F b) { return {vminq_f32(a.low, b.low), vminq_f32(a.high, b.high)}; }
CG_INLINE float32x4_t one_where(uint32x4_t mask) {
  return vreinterpretq_f32_u32(vandq_u32(mask, vdupq_n_u32(0x3f800000)));
}
CG_INLINE F at_least(F a, F b) {
  return {one_where(vcgeq_f32(a.low, b.low)), one_where(vcgeq_f32(a.high, b.high))};
}
CG_INLINE F truncate(F a) { return {vrndq_f32(a.low), vrndq_f32(a.high)}; }
CG_INLINE F floor(F a) { return {vrndmq_f32(a.low), vrndmq_f32(a.high)}; }
CG_INLINE float32x4_t exp2_of_biased_half(float32x4_t a) {
  const uint32x4_t shifted = vshlq_n_u32(vreinterpretq_u32_f32(a), 23);
  return vreinterpretq_f32_u32(vaddq_u32(shifted, vdupq_n_u32(0x3f800000)));
}
CG_INLINE F exp2_of_biased(F a) { return {exp2_of_biased_half(a.low), exp2_of_biased_half(a.high)}; }

CG_INLINE float sum(F a) {
  const float32x4_t r = vaddq_f32(a.low, a.high);
  const float32x2_t s = vadd_f32(vget_low_f32(r), vget_high_f32(r));
  return vget_lane_f32(s, 0) + vget_lane_f32(s, 1);
}

CG_INLINE float largest(F a) { return vmaxvq_f32(vmaxq_f32(a.low, a.high)); }

CG_INLINE void prefetch(const uint8_t* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p);
#else
  (void)p;
#endif
}

// Into the second cache.
CG_INLINE void prefetch_far(const uint8_t* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 2);
#else
  (void)p;
#endif
}

CG_INLINE F floats_of_words(int16x8_t words) {
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(words)))};
}

CG_INLINE void unpack_half(int8x16_t bytes, F out[2]) {
  out[0] = floats_of_words(vmovl_s8(vget_low_s8(bytes)));
  out[1] = floats_of_words(vmovl_s8(vget_high_s8(bytes)));
}

CG_INLINE int8x16_t load_signed(const void* p) { return vreinterpretq_s8_u8(vld1q_u8((const uint8_t*)p)); }

CG_INLINE void unpack_i8(const uint8_t* p, F out[4]) {
  unpack_half(load_signed(p), out);
  unpack_half(load_signed(p + 16), out + 2);
}

CG_INLINE int8x16_t low_nibbles(uint8x16_t packed) {
  return vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(15)));
}
CG_INLINE int8x16_t high_nibbles(uint8x16_t packed) { return vreinterpretq_s8_u8(vshrq_n_u8(packed, 4)); }

CG_INLINE void unpack_q4(const uint8_t* p, F out[4]) {
  const uint8x16_t packed = vld1q_u8(p);
  const int8x16_t eight = vdupq_n_s8(8);
  unpack_half(vsubq_s8(low_nibbles(packed), eight), out);
  unpack_half(vsubq_s8(high_nibbles(packed), eight), out + 2);
}

CG_INLINE int16x8_t rounded_words(F a) {
  return vcombine_s16(vqmovn_s32(vcvtnq_s32_f32(a.low)), vqmovn_s32(vcvtnq_s32_f32(a.high)));
}

CG_INLINE int32_t pack_i8(const F in[4], int8_t* out) {
  const int8x16_t low = vcombine_s8(vqmovn_s16(rounded_words(in[0])), vqmovn_s16(rounded_words(in[1])));
  const int8x16_t high = vcombine_s8(vqmovn_s16(rounded_words(in[2])), vqmovn_s16(rounded_words(in[3])));
  vst1q_s8(out, low);
  vst1q_s8(out + 16, high);
  return vaddlvq_s8(low) + vaddlvq_s8(high);
}

struct I {
  int32x4_t low, high;
};

CG_INLINE I load_ints(const int32_t* p) { return {vld1q_s32(p), vld1q_s32(p + 4)}; }
CG_INLINE I add(I a, I b) { return {vaddq_s32(a.low, b.low), vaddq_s32(a.high, b.high)}; }
CG_INLINE F to_float(I a) { return {vcvtq_f32_s32(a.low), vcvtq_f32_s32(a.high)}; }

// What products have in excess because weights are multiplied as they are stored: activations' offsets take
// it off again.
constexpr int32_t kQ4ZeroPoint = 8;
constexpr int32_t kI8ZeroPoint = 0;

// The block of a group that each lane of its products has.
constexpr int kQ4Order[8] = {0, 1, 2, 3, 4, 5, 6, 7};
constexpr int kI8Order[8] = {0, 1, 2, 3, 4, 5, 6, 7};

template <Format>
CG_INLINE F in_lane_order(F a) {
  return a;
}

// Adds products of signed bytes, in sums of four.
CG_INLINE int32x4_t add_products(int32x4_t sums, int8x16_t a, int8x16_t b) {
#if defined(CG_DOTPROD)
  return vdotq_s32(sums, a, b);
#else
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
  const int32x4_t high = vpaddlq_s16(vmull_high_s8(a, b));
  return vaddq_s32(sums, vpaddq_s32(low, high));
#endif
}

CG_INLINE int32x4_t sum_fours(const int32x4_t v[4]) {
  return vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
}

// Eight blocks in order.
struct Q4Group {
  int8x16_t low[8], high[8];
};

CG_INLINE I dot(const Q4Group& w, const int8_t* x) {
  int32x4_t v[8];
  for (int i = 0; i < 8; i++) {
    const int8_t* p = x + i / 2 * 64 + i % 2 * 16;
    v[i] = add_products(add_products(vdupq_n_s32(0), w.low[i], vld1q_s8(p)), w.high[i], vld1q_s8(p + 32));
  }
  return {sum_fours(v), sum_fours(v + 4)};
}

struct I8Group {
  int8x16_t low[8], high[8];
};

CG_INLINE I dot(const I8Group& w, const int8_t* x) {
  int32x4_t v[8];
  for (int i = 0; i < 8; i++) {
    const int8_t* p = x + i * 32;
    v[i] = add_products(add_products(vdupq_n_s32(0), w.low[i], vld1q_s8(p)), w.high[i], vld1q_s8(p + 16));
  }
  return {sum_fours(v), sum_fours(v + 4)};
}

template <Format format>
CG_INLINE auto load_group(const uint8_t* p) {
  if constexpr (format == Format::q4) {
    Q4Group group;
    for (int i = 0; i < 8; i++) {
      const uint8x16_t packed = vld1q_u8(p + 16 * i);
      group.low[i] = low_nibbles(packed);
      group.high[i] = high_nibbles(packed);
    }
    return group;
  } else {
    I8Group group;
    for (int i = 0; i < 8; i++) {
      group.low[i] = load_signed(p + 32 * i);
      group.high[i] = load_signed(p + 32 * i + 16);
    }
    return group;
  }
}

// Unpacking panels: sixteen bytes at a time.
using Bytes16 = int8x16_t;

CG_INLINE Bytes16 load_16(const uint8_t* p) { return load_signed(p); }
CG_INLINE void store_16(uint8_t* p, Bytes16 a) { vst1q_u8(p, vreinterpretq_u8_s8(a)); }
CG_INLINE Bytes16 low_nibbles(Bytes16 a) { return low_nibbles(vreinterpretq_u8_s8(a)); }
CG_INLINE Bytes16 high_nibbles(Bytes16 a) { return high_nibbles(vreinterpretq_u8_s8(a)); }
CG_INLINE Bytes16 to_panel_i8(Bytes16 a) { return a; }

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

// Panels: vectors of rows.
constexpr int kWideLanes = 8;
constexpr int kPanelVectors = 1;
constexpr int kPanelTokens = 4;
constexpr int kFloatTokens = 8;
// Attention: rows and vectors per step.
constexpr int kScoreRows = 2;
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

CG_INLINE WideBytes broadcast_4(const int8_t* p) {
  int32_t word;
  memcpy(&word, p, sizeof word);
  const int8x16_t words = vreinterpretq_s8_s32(vdupq_n_s32(word));
  return {words, words};
}

// The products of a block's columns with one token.
template <Format>
struct Dots {
  I sums;

  CG_MEMBER void start(int32_t offset) { sums = {vdupq_n_s32(offset), vdupq_n_s32(offset)}; }
  CG_MEMBER void add(WideBytes w, WideBytes x) {
    sums = {add_products(sums.low, w.low, x.low), add_products(sums.high, w.high, x.high)};
  }
  CG_MEMBER W finish(int32_t) const { return to_float(sums); }
};

}  // namespace
}  // namespace cg
