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

CG_INLINE void pack_i8(const F in[4], int8_t* out) {
  vst1q_s8(out, vcombine_s8(vqmovn_s16(rounded_words(in[0])), vqmovn_s16(rounded_words(in[1]))));
  vst1q_s8(out + 16, vcombine_s8(vqmovn_s16(rounded_words(in[2])), vqmovn_s16(rounded_words(in[3]))));
}

// Sums of four products of signed bytes.
CG_INLINE int32x4_t multiply_bytes(int32x4_t sums, int8x16_t a, int8x16_t b) {
#if defined(CG_DOTPROD)
  return vdotq_s32(sums, a, b);
#else
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
  const int32x4_t high = vpaddlq_s16(vmull_high_s8(a, b));
  return vaddq_s32(sums, vpaddq_s32(low, high));
#endif
}

struct Q4Pair {
  uint8x16_t first, second;  // one packed block each
};

CG_INLINE Q4Pair load_q4_pair(const uint8_t* p) { return {vld1q_u8(p), vld1q_u8(p + 16)}; }

CG_INLINE float32x4_t dot_block(uint8x16_t packed, const int8_t* x) {
  int32x4_t sums = multiply_bytes(vdupq_n_s32(0), low_nibbles(packed), vld1q_s8(x));
  sums = multiply_bytes(sums, high_nibbles(packed), vld1q_s8(x + 32));
  return vcvtq_f32_s32(sums);
}

CG_INLINE F dot(Q4Pair w, const int8_t* x) { return {dot_block(w.first, x), dot_block(w.second, x + 16)}; }

struct I8Block {
  int8x16_t low, high;
};

CG_INLINE I8Block load_i8_block(const uint8_t* p) { return {load_signed(p), load_signed(p + 16)}; }

CG_INLINE F dot(I8Block w, const int8_t* x) {
  const int32x4_t none = vdupq_n_s32(0);
  return {vcvtq_f32_s32(multiply_bytes(none, w.low, vld1q_s8(x))),
          vcvtq_f32_s32(multiply_bytes(none, w.high, vld1q_s8(x + 16)))};
}

template <int J>
CG_INLINE F spread_pair(F a) {
  const float32x4_t half = J < 2 ? a.low : a.high;
  return {vdupq_laneq_f32(half, 2 * (J % 2)), vdupq_laneq_f32(half, 2 * (J % 2) + 1)};
}

template <int J>
CG_INLINE F spread(F a) {
  const float32x4_t lanes = vdupq_laneq_f32(J < 4 ? a.low : a.high, J % 4);
  return {lanes, lanes};
}

}  // namespace
}  // namespace cg
