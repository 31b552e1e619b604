// The three ways through a product: one token, a few, many. They differ in order, not in results.

namespace cg {
namespace {

// Rows whose weights stay in the cache while all tokens pass.
constexpr int64_t kRowPanel = 16;

template <class Row>
void product_one(const ProductArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) Row::template run<1>(args, row, 0);
}

template <class Row>
void product_few(const ProductArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    int64_t token = 0;
    for (; token + kTokenTile <= args.tokens; token += kTokenTile)
      Row::template run<kTokenTile>(args, row, token);
    for (; token + 2 <= args.tokens; token += 2) Row::template run<2>(args, row, token);
    for (; token < args.tokens; token++) Row::template run<1>(args, row, token);
  }
}

template <class Row>
void product_many(const ProductArgs& args, int64_t begin, int64_t end) {
  const int64_t tiled = args.tokens / kTokenTile * kTokenTile;
  for (int64_t panel = begin; panel < end; panel += kRowPanel) {
    const int64_t stop = panel + kRowPanel < end ? panel + kRowPanel : end;
    for (int64_t token = 0; token < tiled; token += kTokenTile) {
      for (int64_t row = panel; row < stop; row++) Row::template run<kTokenTile>(args, row, token);
    }
    for (int64_t token = tiled; token < args.tokens; token++) {
      for (int64_t row = panel; row < stop; row++) Row::template run<1>(args, row, token);
    }
  }
}

template <class Row>
constexpr Products products_of() {
  return {product_one<Row>, product_few<Row>, product_many<Row>};
}

}  // namespace
}  // namespace cg
