// Activations as int8 blocks, laid out for the products.

namespace cg {
namespace {

// Which block of a group the lanes of a row product's sums have.
CG_INLINE const int* lane_order(Format format) {
  return elements_of(format) == Format::q4 ? kQ4Order : kI8Order;
}

// Round to nearest even of x * 127 / amax, per block; returns the sum of the integers.
CG_INLINE int32_t quantize_block(const float* x, int8_t* values, float* scale) {
  F v[4], largest_magnitude = zero(), poison = zero();
  for (int i = 0; i < 4; i++) {
    v[i] = load(x + i * kLanes);
    largest_magnitude = max(largest_magnitude, max(v[i], sub(zero(), v[i])));
    poison = fma(v[i], zero(), poison);  // NaN as soon as an element is NaN or infinite
  }
  const float amax = largest(largest_magnitude), clean = sum(poison);
  // Below 127 / FLT_MAX the inverse overflows: such a block is as good as zero.
  const bool ordinary = clean == 0.0f && amax > 4e-37f;
  *scale = ordinary ? amax / 127.0f : clean;
  const F inverse = set1(ordinary ? 127.0f / amax : 0.0f);
  for (int i = 0; i < 4; i++) v[i] = ordinary ? mul(v[i], inverse) : zero();
  return pack_i8(v, values);
}

// A block of a token among its neighbours in a panel product.
CG_INLINE void spread_block(const int8_t* block, int8_t* out) {
  for (int step = 0; step < 8; step++) memcpy(out + step * kPanelTokens * 4, block + step * 4, 4);
}

void quantize_token(Format format, Layout layout, const float* x, int64_t cols, const QuantizedTokens& out,
                    int64_t token) {
  const int32_t zero_point = format == Format::q4 ? kQ4ZeroPoint : kI8ZeroPoint;
  const int64_t blocks = cols / kBlock;
  if (layout == Layout::panels) {
    const PanelOrder order(lane_order(format), blocks);
    const int64_t tile = token / kPanelTokens, place = token % kPanelTokens;
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t at = tile * blocks + order.position(b), one = at * kPanelTokens + place;
      int8_t block[kBlock];
      out.offsets[one] = -zero_point * quantize_block(x + b * kBlock, block, out.scales + one);
      spread_block(block, out.values + at * kPanelTokens * kBlock + place * 4);
    }
    return;
  }
  int8_t* values = out.values + token * out.blocks * kBlock;
  float* scales = out.scales + token * out.blocks;
  int32_t* offsets = out.offsets + token * out.blocks;
  int lanes[kBlockGroup];
  for (int lane = 0; lane < kBlockGroup; lane++) lanes[lane_order(format)[lane]] = lane;
  for (int64_t b = 0; b < out.blocks; b++) {
    int8_t block[kBlock] = {};
    float scale = 0.0f;
    const int32_t total = b < blocks ? quantize_block(x + b * kBlock, block, &scale) : 0;
    const int64_t at = b / kBlockGroup * kBlockGroup + lanes[b % kBlockGroup];
    scales[at] = scale;
    offsets[at] = -zero_point * total;
    if (format == Format::q4) {
      int8_t* pair = values + b / 2 * 2 * kBlock + b % 2 * 16;
      memcpy(pair, block, 16);
      memcpy(pair + kBlock, block + 16, 16);
    } else {
      memcpy(values + b * kBlock, block, kBlock);
    }
  }
}

}  // namespace
}  // namespace cg
