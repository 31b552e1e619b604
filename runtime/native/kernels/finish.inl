// What all products share at their end.

namespace cg {
namespace {

// How far ahead row products ask for weights: enough to keep one core's share of the memory bandwidth busy.
constexpr int64_t kPrefetchBytes = 2048;

CG_INLINE int64_t place_of(const ProductArgs& args, int64_t token, int64_t row) {
  return token * args.y_stride + row - args.first_row;
}

CG_INLINE void finish(const ProductArgs& args, int64_t token, int64_t row, float value) {
  const int64_t at = place_of(args, token, row);
  args.y[at] = args.residual != nullptr ? args.residual[at] + value : value;
}

}  // namespace
}  // namespace cg
