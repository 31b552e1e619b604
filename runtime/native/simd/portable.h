// Eight floats in plain C++. The definition that the other instruction sets are written after.
#pragma once

#include <string.h>

namespace cg {
namespace {

constexpr int kLanes = 8;

struct F {
  float lane[kLanes];
};

CG_INLINE F set1(float value) {
  F r;
  for (float& lane : r.lane) lane = value;
  return r;
}

CG_INLINE F zero() { return set1(0.0f); }

CG_INLINE F load(const float* p) {
  F r;
  memcpy(r.lane, p, sizeof r.lane);
  return r;
}

CG_INLINE void store(float* p, F a) { memcpy(p, a.lane, sizeof a.lane); }

CG_INLINE float float_of_bits(uint32_t bits) {
  float r;
  memcpy(&r, &bits, sizeof r);
  return r;
}

CG_INLINE uint32_t bits_of_float(float value) {
  uint32_t r;
  memcpy(&r, &value, sizeof r);
  return r;
}

CG_INLINE float float_of_half(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000) << 16;
  const uint32_t rest = half & 0x7fff;
  if (rest >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // Moving the exponent's bias by a product also normalizes subnormals, exactly.
  const float value = float_of_bits(rest << 13) * float_of_bits(0x77800000);  // 2^112
  return float_of_bits(sign | bits_of_float(value));
}

// To the nearest, ties to even; infinity beyond the largest.
CG_INLINE uint16_t half_of_float(float value) {
  const uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x3ff));
  if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
  // Below f16's smallest normal number its steps are those of f32 around 0.5.
  if (rest < 0x38800000) return (uint16_t)(sign | (bits_of_float(float_of_bits(rest) + 0.5f) - 0x3f000000));
  return (uint16_t)(sign | ((rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13));
}

CG_INLINE F load_f32(const uint8_t* p) {
  F r;
  memcpy(r.lane, p, sizeof r.lane);
  return r;
}

CG_INLINE F load_bf16(const uint8_t* p) {
  uint16_t bits[kLanes];
  memcpy(bits, p, sizeof bits);
  F r;
  for (int i = 0; i < kLanes; i++) r.lane[i] = float_of_bits((uint32_t)bits[i] << 16);
  return r;
}

CG_INLINE F load_f16(const uint8_t* p) {
  uint16_t bits[kLanes];
  memcpy(bits, p, sizeof bits);
  F r;
  for (int i = 0; i < kLanes; i++) r.lane[i] = float_of_half(bits[i]);
  return r;
}

CG_INLINE void store_f16(uint8_t* p, F a) {
  uint16_t bits[kLanes];
  for (int i = 0; i < kLanes; i++) bits[i] = half_of_float(a.lane[i]);
  memcpy(p, bits, sizeof bits);
}

#define CG_LANEWISE(expression)                            \
  F r;                                                     \
  for (int i = 0; i < kLanes; i++) r.lane[i] = expression; \
  return r

CG_INLINE F add(F a, F b) { CG_LANEWISE(a.lane[i] + b.lane[i]); }
CG_INLINE F sub(F a, F b) { CG_LANEWISE(a.lane[i] - b.lane[i]); }
CG_INLINE F mul(F a, F b) { CG_LANEWISE(a.lane[i] * b.lane[i]); }
CG_INLINE F div(F a, F b) { CG_LANEWISE(a.lane[i] / b.lane[i]); }
// a * b + c; rounded once where the hardware can.
CG_INLINE F fma(F a, F b, F c) { CG_LANEWISE(a.lane[i] * b.lane[i] + c.lane[i]); }
// Of a NaN and a number, the second argument.
CG_INLINE F max(F a, F b) { CG_LANEWISE(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
CG_INLINE F min(F a, F b) { CG_LANEWISE(a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]); }
// 1 where a >= b, else 0.
CG_INLINE F at_least(F a, F b) { CG_LANEWISE(a.lane[i] >= b.lane[i] ? 1.0f : 0.0f); }
// For |a| < 2^31.
CG_INLINE F select_less(F a, F b, F yes, F no) {
  CG_LANEWISE(a.lane[i] < b.lane[i] ? yes.lane[i] : no.lane[i]);
}
CG_INLINE F truncate(F a) { CG_LANEWISE((float)(int32_t)a.lane[i]); }
CG_INLINE F floor(F a) {
  CG_LANEWISE((float)(int32_t)a.lane[i] - ((float)(int32_t)a.lane[i] > a.lane[i] ? 1.0f : 0.0f));
}
// 2^n, where a is n + 1.5 * 2^23 and n in -126 .. 127.
CG_INLINE F exp2_of_biased(F a) { CG_LANEWISE(float_of_bits((bits_of_float(a.lane[i]) << 23) + 0x3f800000)); }

#undef CG_LANEWISE

CG_INLINE float sum(F a) {
  const float* v = a.lane;
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

CG_INLINE float largest(F a) {
  float r = a.lane[0];
  for (float v : a.lane) r = v > r ? v : r;
  return r;
}

CG_INLINE void prefetch(const uint8_t*) {}
CG_INLINE void prefetch_far(const uint8_t*) {}

// 32 signed bytes / 32 nibbles minus 8, in element order.
CG_INLINE void unpack_i8(const uint8_t* p, F out[4]) {
  for (int i = 0; i < 32; i++) out[i / 8].lane[i % 8] = (float)(int8_t)p[i];
}

CG_INLINE void unpack_q4(const uint8_t* p, F out[4]) {
  for (int i = 0; i < 16; i++) {
    out[i / 8].lane[i % 8] = (float)((p[i] & 15) - 8);
    out[2 + i / 8].lane[i % 8] = (float)((p[i] >> 4) - 8);
  }
}

// 32 floats of magnitude <= 127.5 to bytes, rounded to nearest, ties to even; returns their sum.
CG_INLINE int32_t pack_i8(const F in[4], int8_t* out) {
  int32_t total = 0;
  for (int i = 0; i < 32; i++) {
    // The sum's low bits are the rounded number in two's complement.
    out[i] = (int8_t)(uint8_t)bits_of_float(in[i / 8].lane[i % 8] + 12582912.0f);
    total += out[i];
  }
  return total;
}

struct I {
  int32_t lane[kLanes];
};

CG_INLINE I load_ints(const int32_t* p) {
  I r;
  memcpy(r.lane, p, sizeof r.lane);
  return r;
}

CG_INLINE I add(I a, I b) {
  for (int i = 0; i < kLanes; i++) a.lane[i] += b.lane[i];
  return a;
}

CG_INLINE F to_float(I a) {
  F r;
  for (int i = 0; i < kLanes; i++) r.lane[i] = (float)a.lane[i];
  return r;
}

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

// Eight blocks as they are stored.
template <Format>
struct Group {
  const uint8_t* bytes;
};

template <Format format>
CG_INLINE Group<format> load_group(const uint8_t* p) {
  return {p};
}

// The products of every block. In loops that compilers turn into vector code.
CG_INLINE I dot(Group<Format::q4> w, const int8_t* x) {
  I r;
  for (int b = 0; b < kLanes; b++) {
    const uint8_t* packed = w.bytes + b * 16;
    const int8_t* low = x + b / 2 * 64 + b % 2 * 16;
    int32_t total = 0;
    for (int i = 0; i < 16; i++)
      total += (int16_t)((int16_t)(packed[i] & 15) * low[i] + (int16_t)(packed[i] >> 4) * low[32 + i]);
    r.lane[b] = total;
  }
  return r;
}

CG_INLINE I dot(Group<Format::i8> w, const int8_t* x) {
  I r;
  for (int b = 0; b < kLanes; b++) {
    int32_t total = 0;
    for (int i = 0; i < 32; i++) total += (int16_t)((int16_t)(int8_t)w.bytes[b * 32 + i] * x[b * 32 + i]);
    r.lane[b] = total;
  }
  return r;
}

}  // namespace
}  // namespace cg
