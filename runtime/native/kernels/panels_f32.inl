// Products of many tokens with f32 activations: a panel of rows becomes floats, column by column, a piece of
// the columns at a time, and stays in the cache while all tokens pass.

namespace cg {
namespace {

constexpr int64_t kPieceCols = 256;
constexpr int64_t kFloatPanels = kPassRows / kPanelRows;

// A piece of a panel in scratch memory, and its tokens' sums so far.
struct FloatPanel {
  int64_t row, count;  // the matrix's rows that it holds
  float* values;       // [cols, kPanelRows]
  float* sums;         // [tokens, kPanelRows]
};

int64_t f32_scratch_bytes(int64_t, int64_t tokens) {
  return kFloatPanels * (kPieceCols + tokens) * kPanelRows * 4;
}

// Some neighbours' floats side by side: [cols, kFloatTokens].
void spread_tokens(const float* const* x, int64_t tokens, int64_t cols, float* out) {
  constexpr int64_t kRun = 64;  // columns, so that what is written stays in the first cache
  for (int64_t first = 0; first < cols; first += kRun) {
    const int64_t last = first + kRun < cols ? first + kRun : cols;
    for (int64_t t = 0; t < tokens; t++) {
      for (int64_t c = first; c < last; c++) out[c * kFloatTokens + t] = x[t][c];
    }
  }
}

// Columns [col, col + cols) to a panel; rows that are missing are zero.
template <Format format>
void unpack_floats(const Matrix& weight, int64_t col, int64_t cols, const FloatPanel& panel) {
  const int64_t blocks = weight.cols / kBlock, row_bytes = bytes_of(format, weight.cols);
  for (int64_t r = 0; r < kPanelRows; r += kLanes) {
    for (int64_t c = 0; c < cols; c += kBlock) {
      const int64_t n = cols - c < kBlock ? cols - c : kBlock;
      F v[kLanes][4];
      for (int i = 0; i < kLanes; i++) {
        const bool there = r + i < panel.count;
        const int64_t row = panel.row + r + i;
        const uint8_t* data = weight.data + row * row_bytes;
        const uint8_t* scales =
            is_blocked(format) ? weight.scales + row * blocks * scale_bytes(format) : nullptr;
        for (F& f : v[i]) f = zero();
        if (there) prefetch_far(data + bytes_of(format, col + c + kPieceCols));  // the next piece's
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
          store(panel.values + (c + k * kLanes + i) * kPanelRows + r, square[i]);
      }
    }
  }
}

// Adds columns [col, col + cols) of T tokens, neighbours in the layout, to their sums; after the last columns
// to y.
template <int T>
CG_INLINE void float_tile(const ProductArgs& args, const FloatPanel& panel, int64_t col, int64_t cols,
                          int64_t token) {
  float* so_far = panel.sums + token * kPanelRows;
  W sums[T * kPanelVectors];
  for (int i = 0; i < T * kPanelVectors; i++)
    sums[i] = col > 0 ? load_wide(so_far + i * kWideLanes) : wide_zero();
  const float* x = args.x + token / kFloatTokens * kFloatTokens * args.weight.cols + col * kFloatTokens +
                   token % kFloatTokens;
  for (int64_t c = 0; c < cols; c++) {
    W w[kPanelVectors];
    for (int p = 0; p < kPanelVectors; p++) w[p] = load_wide(panel.values + c * kPanelRows + p * kWideLanes);
    for (int t = 0; t < T; t++) {
      const W v = wide_set1(x[c * kFloatTokens + t]);
      for (int p = 0; p < kPanelVectors; p++)
        sums[t * kPanelVectors + p] = fma(w[p], v, sums[t * kPanelVectors + p]);
    }
  }
  for (int i = 0; i < T * kPanelVectors; i++) {
    if (col + cols < args.weight.cols) {
      store(so_far + i * kWideLanes, sums[i]);
    } else {
      put(args, panel.row, panel.count, token, i, sums[i]);
    }
  }
}

// Asks for what the tokens after those at `token` have in the columns: from tile to tile the processor sees
// no pattern of its own.
CG_INLINE void ask_for_next(const ProductArgs& args, int64_t col, int64_t cols, int64_t token) {
  const int64_t tile = token / kFloatTokens + 1;
  if (tile * kFloatTokens >= args.tokens) return;
  const float* next = args.x + tile * kFloatTokens * args.weight.cols + col * kFloatTokens;
  for (int64_t i = 0; i < cols * kFloatTokens; i += 16) prefetch_far((const uint8_t*)(next + i));
}

// The tokens from `token` on, as many at a time as they come.
template <int T>
void float_tiles(const ProductArgs& args, const FloatPanel* panels, int64_t count, int64_t col, int64_t cols,
                 int64_t token) {
  if constexpr (T > 0) {
    for (; token + T <= args.tokens; token += T) {
      ask_for_next(args, col, cols, token);
      for (int64_t i = 0; i < count; i++) float_tile<T>(args, panels[i], col, cols, token);
    }
    float_tiles<T / 2>(args, panels, count, col, cols, token);
  }
}

template <Format format>
void panels_f32(const ProductArgs& args, int64_t begin, int64_t end) {
  float* scratch = static_cast<float*>(args.scratch);
  for (int64_t row = begin; row < end; row += kPassRows) {
    FloatPanel panels[kFloatPanels];
    int64_t count = 0;
    for (int64_t r = row; count < kFloatPanels && r < end; r += kPanelRows, count++) {
      float* values = scratch + count * (kPieceCols + args.tokens) * kPanelRows;
      panels[count] = {r, r + kPanelRows < end ? kPanelRows : end - r, values,
                       values + kPieceCols * kPanelRows};
    }
    for (int64_t col = 0; col < args.weight.cols; col += kPieceCols) {
      const int64_t cols = col + kPieceCols < args.weight.cols ? kPieceCols : args.weight.cols - col;
      for (int64_t i = 0; i < count; i++) unpack_floats<format>(args.weight, col, cols, panels[i]);
      float_tiles<kFloatTokens>(args, panels, count, col, cols, 0);
    }
  }
}

}  // namespace
}  // namespace cg
