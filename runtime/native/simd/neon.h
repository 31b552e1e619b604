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
CG_INLINE void store_f16(uint8_t* p, F a) {
  vst1q_u8(p, vreinterpretq_u8_f16(vcombine_f16(vcvt_f16_f32(a.low), vcvt_f16_f32(a.high))));
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
CG_INLINE F select_less(F a, F b, F yes, F no) {
  return {vbslq_f32(vcltq_f32(a.low, b.low), yes.low, no.low),
          vbslq_f32(vcltq_f32(a.high, b.high), yes.high, no.high)};
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

// Adds two products to each of eight sums of 16 bits. There is room for 17 products of nibbles, but for no
// more than two of bytes: 2 * 128 * 127, and x is never -128.
CG_INLINE int16x8_t add_products(int16x8_t sums, int8x16_t w, int8x16_t x) {
  return vmlal_high_s8(vmlal_s8(sums, vget_low_s8(w), vget_low_s8(x)), w, x);
}

// The products of a block, in four sums.
template <Format format>
CG_INLINE int32x4_t block_products(int8x16_t w0, int8x16_t w1, int8x16_t x0, int8x16_t x1) {
#if defined(CG_DOTPROD)
  return vdotq_s32(vdotq_s32(vdupq_n_s32(0), w0, x0), w1, x1);
#else
  const int16x8_t first = add_products(vdupq_n_s16(0), w0, x0);
  if constexpr (format == Format::q4) return vpaddlq_s16(add_products(first, w1, x1));
  return vpadalq_s16(vpaddlq_s16(first), add_products(vdupq_n_s16(0), w1, x1));
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
    v[i] = block_products<Format::q4>(w.low[i], w.high[i], vld1q_s8(p), vld1q_s8(p + 32));
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
    v[i] = block_products<Format::i8>(w.low[i], w.high[i], vld1q_s8(p), vld1q_s8(p + 16));
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

}  // namespace
}  // namespace cg
