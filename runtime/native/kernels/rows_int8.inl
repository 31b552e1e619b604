// Products of a few tokens with int8 activations, straight from the stored layout: every byte of the weights
// is loaded once. The products of a block are exact integers; blocks add up in f32, in eight lanes.

namespace cg {
namespace {

// Eight blocks with T tokens.
template <Format format, int T>
CG_INLINE void add_group(const uint8_t* w, const uint8_t* w_scales, const QuantizedTokens& q, int64_t block,
                         F* sums) {
  const auto group = load_group<format>(w);
  const F w_scale = in_lane_order<format>(load_f32(w_scales));
  for (int t = 0; t < T; t++) {
    const int64_t at = t * q.blocks + block;
    const I products = add(dot(group, q.values + at * kBlock), load_ints(q.offsets + at));
    sums[t] = fma(mul(to_float(products), w_scale), load(q.scales + at), sums[t]);
  }
}

template <Format format, int T>
CG_INLINE void row_int8(const ProductArgs& args, int64_t row) {
  const int64_t blocks = args.weight.cols / kBlock, grouped = blocks / kBlockGroup * kBlockGroup;
  const int64_t block_bytes = bytes_of(format, kBlock);
  const uint8_t* data = args.weight.data + row * blocks * block_bytes;
  const uint8_t* scales = args.weight.scales + row * blocks * 4;
  F sums[T];
  for (int t = 0; t < T; t++) sums[t] = zero();
  for (int64_t b = 0; b < grouped; b += kBlockGroup) {
    for (int64_t line = 0; line < kBlockGroup * block_bytes; line += 64) {
      prefetch(data + b * block_bytes + kPrefetchBytes + line);
    }
    prefetch(scales + b * 4 + kPrefetchBytes / 4);
    add_group<format, T>(data + b * block_bytes, scales + b * 4, args.quantized, b, sums);
  }
  if (grouped != blocks) {  // the last group from a padded copy: nothing past the row's end is read
    uint8_t rest[kBlockGroup * kBlock] = {}, rest_scales[kBlockGroup * 4] = {};
    memcpy(rest, data + grouped * block_bytes, (size_t)((blocks - grouped) * block_bytes));
    memcpy(rest_scales, scales + grouped * 4, (size_t)(blocks - grouped) * 4);
    add_group<format, T>(rest, rest_scales, args.quantized, grouped, sums);
  }
  for (int t = 0; t < T; t++) finish(args, t, row, sum(sums[t]));
}

template <Format format, int T>
void rows_int8_of(const ProductArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) row_int8<format, T>(args, row);
}

template <Format format>
void rows_int8(const ProductArgs& args, int64_t begin, int64_t end) {
  switch (args.tokens) {
    case 1: return rows_int8_of<format, 1>(args, begin, end);
    case 2: return rows_int8_of<format, 2>(args, begin, end);
    case 3: return rows_int8_of<format, 3>(args, begin, end);
    case 4: return rows_int8_of<format, 4>(args, begin, end);
    case 5: return rows_int8_of<format, 5>(args, begin, end);
    case 6: return rows_int8_of<format, 6>(args, begin, end);
    case 7: return rows_int8_of<format, 7>(args, begin, end);
    default: return rows_int8_of<format, 8>(args, begin, end);
  }
}

}  // namespace
}  // namespace cg
