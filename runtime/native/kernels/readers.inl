// Rows of every stored format as floats, 32 elements at a time.

namespace cg {
namespace {

// The scales of eight neighbouring blocks.
template <Format format>
CG_INLINE F load_scales(const uint8_t* p) {
  if constexpr (format == Format::q4h) {
    return load_f16(p);
  } else {
    return load_f32(p);
  }
}

// The scale of one block, in all lanes; reads nothing around it.
template <Format format>
CG_INLINE F scale_of(const uint8_t* scales, int64_t block) {
  constexpr int64_t kBytes = scale_bytes(format);
  uint8_t same[kLanes * kBytes];
  for (int i = 0; i < kLanes; i++) memcpy(same + i * kBytes, scales + block * kBytes, (size_t)kBytes);
  return load_scales<format>(same);
}

template <Format format>
CG_INLINE void read_block(const uint8_t* row, const uint8_t* scales, int64_t block, F out[4]) {
  const uint8_t* p = row + bytes_of(format, block * kBlock);
  if constexpr (is_blocked(format)) {
    if constexpr (elements_of(format) == Format::q4) {
      unpack_q4(p, out);
    } else {
      unpack_i8(p, out);
    }
    const F scale = scale_of<format>(scales, block);
    for (int i = 0; i < 4; i++) out[i] = mul(out[i], scale);
  } else {
    for (int i = 0; i < 4; i++) {
      const uint8_t* q = p + bytes_of(format, i * kLanes);
      if constexpr (format == Format::bf16) {
        out[i] = load_bf16(q);
      } else if constexpr (format == Format::f16) {
        out[i] = load_f16(q);
      } else {
        out[i] = load_f32(q);
      }
    }
  }
}

// The last `count` < 32 elements of a row of floats, zeros after them; reads nothing past the row's end.
template <Format format>
CG_INLINE void read_rest(const uint8_t* row, int64_t block, int64_t count, F out[4]) {
  uint8_t padded[kBlock * 4] = {};
  memcpy(padded, row + bytes_of(format, block * kBlock), (size_t)bytes_of(format, count));
  read_block<format>(padded, nullptr, 0, out);
}

}  // namespace
}  // namespace cg
