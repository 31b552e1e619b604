// The self-test: passes every instruction set as it is, refuses it as soon as one of its functions is a
// little wrong, and then the next best set is taken.

#include "check.h"
#include "self_test.h"

namespace {

using cg::Format;

const cg::Kernels* good;

// The last token's value in the last row of the range.
template <const cg::Products& (*products)(), cg::Product cg::Products::* which>
void spoil_product(const cg::ProductArgs& args, int64_t begin, int64_t end) {
  (products().*which)(args, begin, end);
  float& y = args.y[(args.tokens - 1) * args.y_stride + end - 1 - args.first_row];
  y += 0.02f * std::fabs(y) + 0.02f;
}

template <Format format, bool int8>
const cg::Products& products() {
  constexpr auto at = static_cast<size_t>(format);
  if constexpr (int8) return good->int8_products[at];
  return good->f32_products[at];
}

// The last element rounded a step off.
template <cg::Layout spoiled>
void quantize(Format format, cg::Layout layout, const float* x, int64_t cols, const cg::QuantizedTokens& out,
              int64_t token) {
  std::vector<float> other(x, x + cols);
  if (layout == spoiled) other.back() += other.back() > 0 ? -1 / 127.0f : 1 / 127.0f;
  good->quantize_token(format, layout, other.data(), cols, out, token);
}

template <Format format>
void embed(const cg::Matrix& table, int64_t row, float scale, float* out) {
  good->embed(table, row, scale, out);
  if (table.format == format) out[table.cols - 1] = std::nextafter(out[table.cols - 1], 1e9f);
}

float sum_of_squares(const float* x, int64_t n) { return good->sum_of_squares(x, n) + 1e-3f; }

void weigh(const float* x, const float* weight, float factor, int64_t n, float* out) {
  good->weigh(x, weight, factor, n, out);
  out[n - 1] += 1e-5f;
}

void rope(float* x, const float* cosine, const float* sine, int64_t heads, int64_t head_dim) {
  good->rope(x, cosine, sine, heads, head_dim);
  x[heads * head_dim - 1] += 1e-5f;
}

void geglu(const float* gate, const float* up, int64_t n, float* out) {
  good->geglu(gate, up, n, out);
  out[n - 1] = std::nanf("");
}

// Only of caches of one kind, and of one head size.
template <bool half, int64_t dim>
void attend(const cg::AttentionArgs& args, int64_t kv_head, int64_t first, int64_t count, int64_t segment,
            float* scratch, float* partials) {
  good->attend(args, kv_head, first, count, segment, scratch, partials);
  const int64_t last = (count - 1) * good->partial_floats(dim) + dim - 1;
  if (args.half == half && args.head_dim == dim) partials[last] += 1e-2f;
}

void join(int64_t head_dim, const float* partial, float* state) {
  good->join(head_dim, partial, state);
  state[head_dim - 1] += 1e-2f;
}

void conclude(int64_t head_dim, const float* state, float* out) {
  good->conclude(head_dim, state, out);
  out[head_dim - 1] += 1e-5f;
}

void spread_tokens(const float* const* x, int64_t tokens, int64_t cols, float* out) {
  good->spread_tokens(x, tokens, cols, out);
  out[(cols - 1) * good->float_tokens + tokens - 1] += 1e-2f;
}

enum class Part { data, scale, finite, sums };

template <Format target, Format source, Part part>
void encode(Format to, Format from, const uint8_t* in, int64_t blocks, uint8_t* out, uint8_t* scales,
            cg::EncodeStats* stats) {
  good->encode(to, from, in, blocks, out, scales, stats);
  if (to != target || from != source) return;
  if (part == Part::data) out[cg::bytes_of(to, blocks * cg::kBlock) - 1] ^= 1;
  if (part == Part::scale) scales[blocks * 4 - 4] ^= 1;
  if (part == Part::finite) stats->finite = !stats->finite;
  if (part == Part::sums) stats->sum_sq_error *= 1.1;
}

// A copy with one function that calls the good one and then spoils a little of what it gave.
struct Wrong {
  const char* what;  // that the self-test should say
  cg::Kernels kernels;
};

template <auto member, class F>
void spoil(std::vector<Wrong>* all, const char* what, F function) {
  all->push_back({what, *good});
  all->back().kernels.*member = function;
}

template <Format format, bool int8>
void spoil_products(std::vector<Wrong>* all, const char* what) {
  constexpr auto at = static_cast<size_t>(format);
  for (const bool panels : {false, true}) {
    cg::Kernels& kernels = all->emplace_back(Wrong{what, *good}).kernels;
    cg::Products* p = kernels.f32_products + at;
    if constexpr (int8) p = kernels.int8_products + at;
    if (panels) {
      p->panels = spoil_product<products<format, int8>, &cg::Products::panels>;
    } else {
      p->rows = spoil_product<products<format, int8>, &cg::Products::rows>;
    }
  }
}

template <Format source>
void spoil_encoding(std::vector<Wrong>* all) {
  constexpr auto kQ4 = "encoding as Q4", kI8 = "encoding as I8";
  spoil<&cg::Kernels::encode>(all, kQ4, encode<Format::q4, source, Part::data>);
  spoil<&cg::Kernels::encode>(all, kQ4, encode<Format::q4, source, Part::scale>);
  spoil<&cg::Kernels::encode>(all, kI8, encode<Format::i8, source, Part::data>);
  spoil<&cg::Kernels::encode>(all, kI8, encode<Format::i8, source, Part::finite>);
  spoil<&cg::Kernels::encode>(all, kI8, encode<Format::i8, source, Part::sums>);
}

std::vector<Wrong> spoiled() {
  std::vector<Wrong> all;
  spoil_products<Format::q4, true>(&all, "Q4 products with int8 activations");
  spoil_products<Format::i8, true>(&all, "I8 products with int8 activations");
  spoil_products<Format::q4, false>(&all, "Q4 products with f32 activations");
  spoil_products<Format::i8, false>(&all, "I8 products with f32 activations");
  spoil_products<Format::q4h, true>(&all, "products of Q4 with f16 scales and int8 activations");
  spoil_products<Format::q4h, false>(&all, "products of Q4 with f16 scales and f32 activations");
  spoil_products<Format::bf16, false>(&all, "BF16 products");
  spoil_products<Format::f16, false>(&all, "F16 products");
  spoil_products<Format::f32, false>(&all, "F32 products");
  spoil<&cg::Kernels::quantize_token>(&all, "Q4 products with int8 activations", quantize<cg::Layout::rows>);
  spoil<&cg::Kernels::quantize_token>(&all, "Q4 products with int8 activations",
                                      quantize<cg::Layout::panels>);
  spoil<&cg::Kernels::embed>(&all, "Q4 rows", embed<Format::q4>);
  spoil<&cg::Kernels::embed>(&all, "I8 rows", embed<Format::i8>);
  spoil<&cg::Kernels::embed>(&all, "rows of Q4 with f16 scales", embed<Format::q4h>);
  spoil<&cg::Kernels::embed>(&all, "BF16 rows", embed<Format::bf16>);
  spoil<&cg::Kernels::embed>(&all, "F16 rows", embed<Format::f16>);
  spoil<&cg::Kernels::embed>(&all, "F32 rows", embed<Format::f32>);
  spoil<&cg::Kernels::sum_of_squares>(&all, "sums of squares", sum_of_squares);
  spoil<&cg::Kernels::weigh>(&all, "norms", weigh);
  spoil<&cg::Kernels::rope>(&all, "rotation", rope);
  spoil<&cg::Kernels::geglu>(&all, "activation", geglu);
  spoil<&cg::Kernels::attend>(&all, "attention over an f16 cache", attend<true, 27>);
  spoil<&cg::Kernels::attend>(&all, "attention over an f16 cache", attend<true, 64>);
  spoil<&cg::Kernels::attend>(&all, "attention over an f32 cache", attend<false, 27>);
  spoil<&cg::Kernels::join>(&all, "attention over an f16 cache", join);
  spoil<&cg::Kernels::conclude>(&all, "attention over an f16 cache", conclude);
  spoil<&cg::Kernels::spread_tokens>(&all, "Q4 products with f32 activations", spread_tokens);
  spoil_encoding<Format::bf16>(&all);
  spoil_encoding<Format::f16>(&all);
  spoil_encoding<Format::f32>(&all);
  return all;
}

void next_best(const cg::Kernels& kernels, const cg::Kernels& wrong, const cg::Kernels& also_wrong) {
  const std::vector<cg::Isa> isas{
      {&cg::kernels_portable, true}, {&kernels, true}, {&wrong, true}, {&wrong, false}, {&also_wrong, true}};
  const cg::Choice choice = cg::choose(isas);
  CHECK(choice.kernels == &kernels, "%s", choice.kernels->isa);
  CHECK(choice.refused == (std::vector<const cg::Kernels*>{&also_wrong, &wrong}), "%zu refused",
        choice.refused.size());
  const cg::Choice last = cg::choose({{&cg::kernels_portable, true}, {&wrong, true}});
  CHECK(last.kernels == &cg::kernels_portable, "%s", last.kernels->isa);
  CHECK(cg::choose({{&cg::kernels_portable, true}, {&kernels, true}}).refused.empty(), "%s", kernels.isa);
}

}  // namespace

int main() {
  static std::vector<std::vector<Wrong>> kept;  // what fails is remembered by address
  test::for_each_isa([](const cg::Kernels& kernels) {
    const char* found = cg::self_test(kernels);
    CHECK(found == nullptr, "%s: %s", kernels.isa, found);
    good = &kernels;
    const std::vector<Wrong>& all = kept.emplace_back(spoiled());
    for (const Wrong& wrong : all) {
      found = cg::self_test(wrong.kernels);
      CHECK(found != nullptr && std::strcmp(found, wrong.what) == 0, "%s: %s, not %s", kernels.isa,
            found == nullptr ? "passes" : found, wrong.what);
    }
    next_best(kernels, all.front().kernels, all.back().kernels);
  });
  return test::report();
}
