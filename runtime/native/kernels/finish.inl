// What all products share: how far they read ahead, and where results go.

namespace cg {
namespace {

// How far ahead row products ask for weights: enough to keep one core's share of the memory bandwidth busy.
// They ask for them into the second cache: the first one is for the activations.
constexpr int64_t kPrefetchBytes = 8192;

CG_INLINE int64_t place_of(const ProductArgs& args, int64_t token, int64_t row) {
  return token * args.y_stride + row - args.first_row;
}

CG_INLINE void finish(const ProductArgs& args, int64_t token, int64_t row, float value) {
  const int64_t at = place_of(args, token, row);
  args.y[at] = args.residual != nullptr ? args.residual[at] + value : value;
}

// Rows of a panel.
constexpr int64_t kPanelRows = kWideLanes * kPanelVectors;
// Rows whose panels share a pass over the activations.
constexpr int64_t kPassRows = 64;

// Vector `i` of a tile of a panel, whose rows are [row, row + count) and whose first token is `token`.
CG_INLINE void put(const ProductArgs& args, int64_t row, int64_t count, int64_t token, int i, W sums) {
  const int64_t r = i % kPanelVectors * kWideLanes, t = token + i / kPanelVectors;
  const int64_t at = place_of(args, t, row + r);
  if (r + kWideLanes <= count) {
    store(args.y + at, args.residual != nullptr ? add(load_wide(args.residual + at), sums) : sums);
  } else {
    float rows[kWideLanes];
    store(rows, sums);
    for (int64_t k = 0; r + k < count; k++) finish(args, t, row + r + k, rows[k]);
  }
}

}  // namespace
}  // namespace cg
