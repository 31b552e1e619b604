// Activations as int8 blocks, laid out for the products.

namespace cg {
namespace {

// Up to how many tokens rows or tiles pay.
#if defined(CG_TILES)
constexpr int64_t kFewTokensInt8 = 64;
#else
constexpr int64_t kFewTokensInt8 = kFewTokens;
#endif

// Whether so few tokens are taken as tiles. A single one is if its activations fill the first cache: eight
// rows share the loads of them.
CG_INLINE bool takes_tiles([[maybe_unused]] int64_t tokens, [[maybe_unused]] int64_t cols) {
#if defined(CG_TILES)
  return tokens > 1 || cols > 20480;
#else
  return false;
#endif
}

// A token's group of blocks, as row products want it: values as its weights lie in registers, so that some
// blocks' first sixteen columns come before their last ones (two blocks of Q4: b0[0:16] b1[0:16] b0[16:32]
// b1[16:32]; four in tiles), scales and offsets as the lanes of its sums (in tiles in the blocks' order).
// `offsets` turn products with the unsigned bytes that the kernels multiply into products with the weights,
// exactly. All tokens of a group lie together, [groups, tokens]: at any other distance they would get into
// each other's way in the cache. What pads the last group is zero.
struct TokenGroup {
  int8_t values[kBlockGroup * kBlock];
  float scales[kBlockGroup];
  int32_t offsets[kBlockGroup];
};

// A block of kPanelTokens tokens, as panel products want it: [tokens / kPanelTokens, blocks], the blocks in
// the order of PanelOrder. `values` are [8, kPanelTokens, 4 columns].
struct TokenBlock {
  int8_t values[kBlock * kPanelTokens];
  float scales[kPanelTokens];
  int32_t offsets[kPanelTokens];
};

int64_t quantized_bytes(Layout layout, int64_t cols, int64_t tokens) {
  const int64_t blocks = cols / kBlock;
  if (layout == Layout::rows)
    return (blocks + kBlockGroup - 1) / kBlockGroup * tokens * (int64_t)sizeof(TokenGroup);
  return (tokens + kPanelTokens - 1) / kPanelTokens * blocks * (int64_t)sizeof(TokenBlock);
}

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
    const int64_t place = token % kPanelTokens;
    TokenBlock* tile = static_cast<TokenBlock*>(out.data) + token / kPanelTokens * blocks;
    for (int64_t b = 0; b < blocks; b++) {
      TokenBlock& one = tile[order.position(b)];
      int8_t block[kBlock];
      one.offsets[place] = -zero_point * quantize_block(x + b * kBlock, block, one.scales + place);
      spread_block(block, one.values + place * 4);
    }
    return;
  }
  const bool tiles = takes_tiles(out.tokens, cols);
  const int64_t together = tiles ? 4 : format == Format::q4 ? 2 : 1;
  int lanes[kBlockGroup];
  for (int lane = 0; lane < kBlockGroup; lane++) lanes[tiles ? lane : lane_order(format)[lane]] = lane;
  for (int64_t first = 0; first < blocks; first += kBlockGroup) {
    TokenGroup& group = static_cast<TokenGroup*>(out.data)[first / kBlockGroup * out.tokens + token];
    for (int64_t i = 0; i < kBlockGroup; i++) {
      int8_t block[kBlock] = {};
      float scale = 0.0f;
      const int32_t total = first + i < blocks ? quantize_block(x + (first + i) * kBlock, block, &scale) : 0;
      group.scales[lanes[i]] = scale;
      group.offsets[lanes[i]] = -zero_point * total;
      int8_t* place = group.values + i / together * together * kBlock + i % together * 16;
      memcpy(place, block, 16);
      memcpy(place + together * 16, block + 16, 16);
    }
  }
}

}  // namespace
}  // namespace cg
