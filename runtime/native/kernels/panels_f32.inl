// Products of many tokens with f32 activations: a panel of rows becomes floats, column by column, a piece of
// the columns at a time, and stays in the cache while all tokens pass.

namespace cg {
namespace {

constexpr int64_t kPieceCols = 256;

int64_t f32_scratch_bytes(int64_t) { return kPieceCols * kPanelRows * 4; }

// Columns [col, col + cols) of rows [row, row + count) as [cols, kPanelRows]; rows that are missing are zero.
template <Format format>
void unpack_floats(const Matrix& weight, int64_t row, int64_t count, int64_t col, int64_t cols, float* out) {
  const int64_t blocks = weight.cols / kBlock, row_bytes = bytes_of(format, weight.cols);
  for (int64_t r = 0; r < kPanelRows; r += kLanes) {
    for (int64_t c = 0; c < cols; c += kBlock) {
      const int64_t n = cols - c < kBlock ? cols - c : kBlock;
      F v[kLanes][4];
      for (int i = 0; i < kLanes; i++) {
        const bool there = r + i < count;
        const uint8_t* data = weight.data + (row + r + i) * row_bytes;
        const uint8_t* scales = is_blocked(format) ? weight.scales + (row + r + i) * blocks * 4 : nullptr;
        for (F& f : v[i]) f = zero();
        if (there && n == kBlock) read_block<format>(data, scales, (col + c) / kBlock, v[i]);
        if constexpr (!is_blocked(format)) {
          if (there && n < kBlock) read_rest<format>(data, (col + c) / kBlock, n, v[i]);
        }
      }
      for (int k = 0; k < 4; k++) {
        F square[kLanes];
        for (int i = 0; i < kLanes; i++) square[i] = v[i][k];
        transpose(square);
        for (int i = 0; i < kLanes && k * kLanes + i < n; i++)
          store(out + (c + k * kLanes + i) * kPanelRows + r, square[i]);
      }
    }
  }
}

// Adds the products of T tokens with a panel to y, or begins with the residual. In y, a token's rows are
// those of `stride` floats from token to token.
template <int T>
CG_INLINE void float_tile(const float* panel, int64_t cols, const float* x, int64_t x_stride,
                          const float* before, float* after, int64_t stride) {
  W sums[T * kPanelVectors];
  for (int t = 0; t < T; t++) {
    for (int p = 0; p < kPanelVectors; p++)
      sums[t * kPanelVectors + p] =
          before != nullptr ? load_wide(before + t * stride + p * kWideLanes) : wide_zero();
  }
  for (int64_t c = 0; c < cols; c++) {
    W w[kPanelVectors];
    for (int p = 0; p < kPanelVectors; p++) w[p] = load_wide(panel + c * kPanelRows + p * kWideLanes);
    for (int t = 0; t < T; t++) {
      const W v = wide_set1(x[t * x_stride + c]);
      for (int p = 0; p < kPanelVectors; p++)
        sums[t * kPanelVectors + p] = fma(w[p], v, sums[t * kPanelVectors + p]);
    }
  }
  for (int t = 0; t < T; t++) {
    for (int p = 0; p < kPanelVectors; p++)
      store(after + t * stride + p * kWideLanes, sums[t * kPanelVectors + p]);
  }
}

// The same for a panel of fewer rows: through a copy, so that nothing beyond y's rows is touched.
template <int T>
void narrow_float_tile(const float* panel, int64_t cols, const float* x, int64_t x_stride,
                       const float* before, float* after, int64_t stride, int64_t count) {
  float own[T * kPanelRows] = {};
  const size_t size = (size_t)count * sizeof(float);
  for (int t = 0; t < T && before != nullptr; t++) memcpy(own + t * kPanelRows, before + t * stride, size);
  float_tile<T>(panel, cols, x, x_stride, own, own, kPanelRows);
  for (int t = 0; t < T; t++) memcpy(after + t * stride, own + t * kPanelRows, size);
}

template <int T>
CG_INLINE int64_t float_tiles(const ProductArgs& args, const float* panel, int64_t col, int64_t cols,
                              int64_t token, int64_t row, int64_t count) {
  for (; token + T <= args.tokens; token += T) {
    const int64_t at = place_of(args, token, row), all = args.weight.cols;
    const float* x = args.x + token * all + col;
    const float* before = col > 0 ? args.y + at : args.residual != nullptr ? args.residual + at : nullptr;
    if (count == kPanelRows) {
      float_tile<T>(panel, cols, x, all, before, args.y + at, args.y_stride);
    } else {
      narrow_float_tile<T>(panel, cols, x, all, before, args.y + at, args.y_stride, count);
    }
  }
  return token;
}

template <Format format>
void panels_f32(const ProductArgs& args, int64_t begin, int64_t end) {
  float* panel = static_cast<float*>(args.scratch);
  for (int64_t row = begin; row < end; row += kPanelRows) {
    const int64_t count = row + kPanelRows < end ? kPanelRows : end - row;
    for (int64_t col = 0; col < args.weight.cols; col += kPieceCols) {
      const int64_t cols = col + kPieceCols < args.weight.cols ? kPieceCols : args.weight.cols - col;
      unpack_floats<format>(args.weight, row, count, col, cols, panel);
      int64_t token = float_tiles<kFloatTokens>(args, panel, col, cols, 0, row, count);
      token = float_tiles<4>(args, panel, col, cols, token, row, count);
      float_tiles<1>(args, panel, col, cols, token, row, count);
    }
  }
}

}  // namespace
}  // namespace cg
