// Products with int8 activations. The products of a block are exact integers; blocks add up in f32.

namespace cg {
namespace {

// Round to nearest even of x * 127 / amax, per block.
CG_INLINE void quantize_block(const float* x, int8_t* values, float* scale) {
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
  pack_i8(v, values);
}

void quantize_token(Format format, const float* x, int64_t cols, const QuantizedTokens& out, int64_t token) {
  int8_t* values = out.values + token * out.blocks * kBlock;
  float* scales = out.scales + token * out.blocks;
  float* offsets = out.offsets + token * out.blocks;
  for (int64_t b = 0; b < out.blocks; b++) {
    int8_t block[kBlock] = {};
    scales[b] = 0.0f;
    if (b < cols / kBlock) quantize_block(x + b * kBlock, block, scales + b);
    int total = 0;
    for (int8_t value : block) total += value;
    offsets[b] = -8.0f * (float)total * scales[b];
    if (format == Format::q4) {
      int8_t* pair = values + b / 2 * 2 * kBlock + b % 2 * 16;
      memcpy(pair, block, 16);
      memcpy(pair + kBlock, block + 16, 16);
    } else {
      memcpy(values + b * kBlock, block, kBlock);
    }
  }
}

template <int J, int T>
CG_INLINE void add_q4_pair(const uint8_t* w, const int8_t* x, int64_t stride, const F* scale, F* sums) {
  const Q4Pair pair = load_q4_pair(w + J * kBlock);
  for (int t = 0; t < T; t++) {
    sums[t] = fma(dot(pair, x + t * stride + J * 2 * kBlock), spread_pair<J>(scale[t]), sums[t]);
  }
}

template <int J, int T>
CG_INLINE void add_i8_block(const uint8_t* w, const int8_t* x, int64_t stride, const F* scale, F* sums) {
  const I8Block block = load_i8_block(w + J * kBlock);
  for (int t = 0; t < T; t++) {
    sums[t] = fma(dot(block, x + t * stride + J * kBlock), spread<J>(scale[t]), sums[t]);
  }
}

// Eight blocks with T tokens.
template <Format format, int T>
CG_INLINE void add_group(const uint8_t* w, const uint8_t* w_scales, const QuantizedTokens& q, int64_t token,
                         int64_t block, F* even, F* odd) {
  const int64_t stride = q.blocks * kBlock;
  const int8_t* x = q.values + token * stride + block * kBlock;
  const F w_scale = load_f32(w_scales);
  F scale[T];
  for (int t = 0; t < T; t++) {
    const int64_t at = (token + t) * q.blocks + block;
    scale[t] = mul(w_scale, load(q.scales + at));
    if constexpr (format == Format::q4) even[t] = fma(w_scale, load(q.offsets + at), even[t]);
  }
  if constexpr (format == Format::q4) {
    add_q4_pair<0, T>(w, x, stride, scale, even);
    add_q4_pair<1, T>(w, x, stride, scale, odd);
    add_q4_pair<2, T>(w, x, stride, scale, even);
    add_q4_pair<3, T>(w, x, stride, scale, odd);
  } else {
    add_i8_block<0, T>(w, x, stride, scale, even);
    add_i8_block<1, T>(w, x, stride, scale, odd);
    add_i8_block<2, T>(w, x, stride, scale, even);
    add_i8_block<3, T>(w, x, stride, scale, odd);
    add_i8_block<4, T>(w, x, stride, scale, even);
    add_i8_block<5, T>(w, x, stride, scale, odd);
    add_i8_block<6, T>(w, x, stride, scale, even);
    add_i8_block<7, T>(w, x, stride, scale, odd);
  }
}

// One row with T tokens. Every token has the same two chains of sums, whatever T is.
template <Format format, int T>
void row_product_int8(const ProductArgs& args, int64_t row, int64_t token) {
  const int64_t blocks = args.weight.cols / kBlock, grouped = blocks / kBlockGroup * kBlockGroup;
  const int64_t block_bytes = bytes_of(format, kBlock);
  const uint8_t* data = args.weight.data + row * blocks * block_bytes;
  const uint8_t* scales = args.weight.scales + row * blocks * 4;
  F even[T], odd[T];
  for (int t = 0; t < T; t++) even[t] = odd[t] = zero();
  for (int64_t b = 0; b < grouped; b += kBlockGroup) {
    // About a KiB ahead keeps one core's share of the memory bandwidth busy.
    for (int64_t line = 0; line < kBlockGroup * block_bytes; line += 64) {
      prefetch(data + b * block_bytes + 1024 + line);
    }
    add_group<format, T>(data + b * block_bytes, scales + b * 4, args.quantized, token, b, even, odd);
  }
  if (grouped != blocks) {  // the last group from a padded copy: nothing past the row's end is read
    uint8_t rest[kBlockGroup * kBlock] = {}, rest_scales[kBlockGroup * 4] = {};
    memcpy(rest, data + grouped * block_bytes, (size_t)((blocks - grouped) * block_bytes));
    memcpy(rest_scales, scales + grouped * 4, (size_t)(blocks - grouped) * 4);
    add_group<format, T>(rest, rest_scales, args.quantized, token, grouped, even, odd);
  }
  for (int t = 0; t < T; t++) args.y[(token + t) * args.weight.rows + row] = sum(add(even[t], odd[t]));
}

template <Format format>
struct Int8Row {
  template <int T>
  CG_INLINE void run(const ProductArgs& args, int64_t row, int64_t token) {
    row_product_int8<format, T>(args, row, token);
  }
};

}  // namespace
}  // namespace cg
