// What panels and attention need, in plain C++: goes with simd/portable.h.
#pragma once

#include "simd/portable.h"

namespace cg {
namespace {

// Unpacking panels: sixteen bytes at a time.
struct Bytes16 {
  uint8_t byte[16];
};

CG_INLINE Bytes16 load_16(const uint8_t* p) {
  Bytes16 r;
  memcpy(r.byte, p, sizeof r.byte);
  return r;
}

CG_INLINE void store_16(uint8_t* p, Bytes16 a) { memcpy(p, a.byte, sizeof a.byte); }

CG_INLINE Bytes16 low_nibbles(Bytes16 a) {
  for (uint8_t& byte : a.byte) byte &= 15;
  return a;
}

CG_INLINE Bytes16 high_nibbles(Bytes16 a) {
  for (uint8_t& byte : a.byte) byte = (uint8_t)(byte >> 4);
  return a;
}

// v[i]'s word j becomes v[j]'s word i.
CG_INLINE void transpose_words(Bytes16 v[4]) {
  Bytes16 r[4];
  for (int i = 0; i < 4; i++) {
    for (int j = 0; j < 4; j++) memcpy(r[j].byte + 4 * i, v[i].byte + 4 * j, 4);
  }
  for (int i = 0; i < 4; i++) v[i] = r[i];
}

// The sums of four vectors.
CG_INLINE void sum_four(const F v[4], float* out) {
  for (int i = 0; i < 4; i++) out[i] = sum(v[i]);
}

// v[i]'s lane j becomes v[j]'s lane i.
CG_INLINE void transpose(F v[kLanes]) {
  for (int i = 0; i < kLanes; i++) {
    for (int j = 0; j < i; j++) {
      const float kept = v[i].lane[j];
      v[i].lane[j] = v[j].lane[i];
      v[j].lane[i] = kept;
    }
  }
}

// Panels: vectors of rows.
constexpr int kWideLanes = kLanes;
constexpr int kPanelVectors = 1;
constexpr int kPanelTokens = 4;
constexpr int kFloatTokens = 4;
// Attention: rows and keys, rows and vectors of values per step.
constexpr int kScoreRows = 2;
constexpr int kScoreKeys = 4;
constexpr int kDirectRows = 2;
constexpr int kDirectKeys = 4;
constexpr int kMixRows = 2;
constexpr int kMixVectors = 1;

using W = F;

struct WideBytes {
  int8_t byte[4 * kWideLanes];  // nibbles count as signed bytes too
};

CG_INLINE W wide_zero() { return zero(); }
CG_INLINE W wide_set1(float value) { return set1(value); }
CG_INLINE W load_wide(const float* p) { return load(p); }
CG_INLINE W load_wide_half(const uint8_t* p) { return load_f16(p); }

CG_INLINE WideBytes load_wide_bytes(const uint8_t* p) {
  WideBytes r;
  memcpy(r.byte, p, sizeof r.byte);
  return r;
}

// Four columns of token t of T, for every row.
template <int T>
CG_INLINE WideBytes broadcast_4(const int8_t* p, int t) {
  WideBytes r;
  for (int i = 0; i < kWideLanes; i++) memcpy(r.byte + 4 * i, p + 4 * t, 4);
  return r;
}

// The products of a block's columns with one token.
template <Format>
struct Dots {
  I sums;

  CG_MEMBER void start(int32_t offset) {
    for (int32_t& lane : sums.lane) lane = offset;
  }
  CG_MEMBER void add(WideBytes w, WideBytes x) {
    for (int i = 0; i < 4 * kWideLanes; i++) sums.lane[i / 4] += (int16_t)((int16_t)w.byte[i] * x.byte[i]);
  }
  CG_MEMBER W finish(int32_t) const { return to_float(sums); }
};

}  // namespace
}  // namespace cg

#include "simd/two_halves.h"
