// Thirty-two bytes as two halves, for machines whose vectors have sixteen. Goes with their Bytes16.
#pragma once

namespace cg {
namespace {

struct Bytes32 {
  Bytes16 low, high;
};

CG_INLINE Bytes32 load_32(const uint8_t* p) { return {load_16(p), load_16(p + 16)}; }
CG_INLINE void store_halves(uint8_t* low, uint8_t* high, Bytes32 a) {
  store_16(low, a.low);
  store_16(high, a.high);
}
CG_INLINE Bytes32 low_nibbles(Bytes32 a) { return {low_nibbles(a.low), low_nibbles(a.high)}; }
CG_INLINE Bytes32 high_nibbles(Bytes32 a) { return {high_nibbles(a.low), high_nibbles(a.high)}; }
CG_INLINE Bytes32 to_panel_i8(Bytes32 a) { return a; }  // weights are multiplied as signed bytes

// v[i]'s word j becomes v[j]'s word i, within each half.
CG_INLINE void transpose_words(Bytes32 v[4]) {
  Bytes16 low[4], high[4];
  for (int i = 0; i < 4; i++) {
    low[i] = v[i].low;
    high[i] = v[i].high;
  }
  transpose_words(low);
  transpose_words(high);
  for (int i = 0; i < 4; i++) v[i] = {low[i], high[i]};
}

}  // namespace
}  // namespace cg
