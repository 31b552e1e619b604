// Products of a few tokens with f32 activations: weights of any format become floats in registers.

namespace cg {
namespace {

// One row with T tokens. Every token has the same two chains of sums, whatever T is.
template <Format format, int T>
CG_INLINE void row_f32(const ProductArgs& args, int64_t row, int64_t token) {
  const int64_t cols = args.weight.cols, blocks = cols / kBlock, rest = cols % kBlock;
  const uint8_t* data = args.weight.data + row * bytes_of(format, cols);
  const uint8_t* scales =
      is_blocked(format) ? args.weight.scales + row * blocks * scale_bytes(format) : nullptr;
  const float* x = args.x + token * cols;
  F even[T], odd[T], w[4];
  for (int t = 0; t < T; t++) even[t] = odd[t] = zero();
  for (int64_t b = 0; b < blocks; b++) {
    read_block<format>(data, scales, b, w);
    prefetch_far(data + bytes_of(format, b * kBlock) + kPrefetchBytes);
    for (int t = 0; t < T; t++) {
      const float* p = x + t * cols + b * kBlock;
      even[t] = fma(w[0], load(p), even[t]);
      odd[t] = fma(w[1], load(p + kLanes), odd[t]);
      even[t] = fma(w[2], load(p + 2 * kLanes), even[t]);
      odd[t] = fma(w[3], load(p + 3 * kLanes), odd[t]);
    }
  }
  if constexpr (!is_blocked(format)) {
    if (rest != 0) {
      read_rest<format>(data, blocks, rest, w);
      for (int t = 0; t < T; t++) {
        float p[kBlock] = {};
        memcpy(p, x + t * cols + blocks * kBlock, (size_t)rest * sizeof(float));
        even[t] = fma(w[0], load(p), even[t]);
        odd[t] = fma(w[1], load(p + kLanes), odd[t]);
        even[t] = fma(w[2], load(p + 2 * kLanes), even[t]);
        odd[t] = fma(w[3], load(p + 3 * kLanes), odd[t]);
      }
    }
  }
  for (int t = 0; t < T; t++) finish(args, token + t, row, sum(add(even[t], odd[t])));
}

template <Format format>
void rows_f32(const ProductArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    int64_t token = 0;  // a row's weights stay in the first cache while the tokens pass
    for (; token + 4 <= args.tokens; token += 4) row_f32<format, 4>(args, row, token);
    for (; token + 2 <= args.tokens; token += 2) row_f32<format, 2>(args, row, token);
    if (token < args.tokens) row_f32<format, 1>(args, row, token);
  }
}

}  // namespace
}  // namespace cg
