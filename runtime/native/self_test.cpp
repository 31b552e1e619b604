#include "self_test.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "context.h"

namespace cg {
namespace {

// xorshift64*: the same numbers everywhere.
class Random {
 public:
  uint32_t bits() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<uint32_t>((state_ * 2685821657736338717ull) >> 32);
  }
  // Uniform in [-1, 1).
  float number() { return static_cast<float>(static_cast<int32_t>(bits())) * 0x1p-31f; }

  std::vector<float> numbers(int64_t n) {
    std::vector<float> r(static_cast<size_t>(n));
    for (float& v : r) v = number();
    return r;
  }

 private:
  uint64_t state_ = 88172645463325252ull;
};

// `n` elements of magnitude up to `largest()` at an odd address. Blocks have any bits, floats any mantissa.
class Elements {
 public:
  Elements(Random& random, Format format, int64_t n)
      : format_(format), bytes_(static_cast<size_t>(1 + bytes_of(format, n))) {
    for (size_t i = 0; i < bytes_.size(); i += 4) {
      const uint32_t bits = random.bits();
      std::memcpy(bytes_.data() + i, &bits, std::min<size_t>(4, bytes_.size() - i));
    }
    if (is_blocked(format)) return;
    // The sign, and the exponent of 0.5: f16 has five bits of it, bf16 and f32 eight.
    const int64_t size = bytes_of(format, 1);
    const bool half = format == Format::f16;
    for (int64_t i = 0; i < n; i++) {
      uint8_t* top = bytes_.data() + 1 + i * size + size - 2;
      top[0] = half ? top[0] : static_cast<uint8_t>(top[0] & 0x7f);
      top[1] = static_cast<uint8_t>((top[1] & 0x80) | (half ? 0x38 | (top[1] & 3) : 0x3f));
    }
  }

  const uint8_t* bytes() const { return bytes_.data() + 1; }
  float largest() const {
    return elements_of(format_) == Format::q4 ? 8.0f : format_ == Format::i8 ? 128.0f : 1.0f;
  }

 private:
  Format format_;
  std::vector<uint8_t> bytes_;
};

struct Stored {
  Stored(Random& random, Format format, int64_t rows, int64_t cols)
      : elements(random, format, rows * cols),
        scales(random, format == Format::q4h ? Format::f16 : Format::f32, rows * cols / kBlock) {
    matrix = {elements.bytes(), is_blocked(format) ? scales.bytes() : nullptr, format, rows, cols};
  }
  Elements elements, scales;
  Matrix matrix;
};

// What one set of kernels computed, and how far another may be from it.
struct Result {
  const char* what;
  std::vector<float> values;
  float tolerance;
};

// All operations of one set of kernels.
class Trial {
 public:
  explicit Trial(const Kernels& kernels) : kernels_(kernels), context_(kernels_, 1) {
    kernels_.few_tokens = kFewTokens;  // so that the same tokens go the same way on every instruction set
    constexpr const char* kNames[kFormats][3] = {
        {"Q4 rows", "Q4 products with int8 activations", "Q4 products with f32 activations"},
        {"I8 rows", "I8 products with int8 activations", "I8 products with f32 activations"},
        {"rows of Q4 with f16 scales", "products of Q4 with f16 scales and int8 activations",
         "products of Q4 with f16 scales and f32 activations"},
        {"BF16 rows", nullptr, "BF16 products"},
        {"F16 rows", nullptr, "F16 products"},
        {"F32 rows", nullptr, "F32 products"}};
    for (int f = 0; f < kFormats; f++) {
      const auto format = static_cast<Format>(f);
      // Full panels of every instruction set and a rest; full groups or blocks and a rest.
      const Stored stored(random_, format, 35, is_blocked(format) ? 9 * kBlock : 71);
      embed(kNames[f][0], stored.matrix);
      // One token, rows for some, panels for many: these make tiles of every power of two.
      for (const int64_t tokens : {int64_t{1}, int64_t{11}, kFewTokens + 7}) {
        if (is_blocked(format)) product(kNames[f][1], stored, tokens, true);
        product(kNames[f][2], stored, tokens, false);
      }
    }
    norm();
    rope();
    geglu();
    to_f16();
    attention("attention over an f16 cache", Format::f16, 3, 27);
    attention("attention over an f16 cache", Format::f16, 1, 64);  // read where it lies
    attention("attention over an f32 cache", Format::f32, 3, 27);
    for (const Format source : {Format::bf16, Format::f16, Format::f32}) {
      encode("encoding as Q4", Format::q4, source);
      encode("encoding as I8", Format::i8, source);
    }
  }

  const std::vector<Result>& results() const { return results_; }

 private:
  void keep(const char* what, std::vector<float> values, float tolerance) {
    results_.push_back({what, std::move(values), tolerance});
  }

  // Products of two floats, rounded in one place: the same everywhere.
  void embed(const char* what, const Matrix& table) {
    const int32_t ids[] = {0, static_cast<int32_t>(table.rows - 1)};
    std::vector<float> out(static_cast<size_t>(2 * table.cols));
    context_.embed(table, ids, 2, 3.0f, out.data());
    keep(what, std::move(out), 0.0f);
  }

  // The integers of rounded activations are the same, f32 sums come in another order or with fewer
  // roundings. Every one of n additions of magnitudes up to m errs by up to 6e-8 of what is summed up by
  // then, a quarter of n m on average; the chains are no longer than n / 8 or, in panels of floats, n = 71.
  void product(const char* what, const Stored& stored, int64_t tokens, bool int8) {
    Matrix weight = stored.matrix;
    if (tokens <= kFewTokens) weight.rows = 19;  // a tile of rows and a rest
    const std::vector<float> x = random_.numbers(tokens * weight.cols);
    std::vector<float> y(static_cast<size_t>(tokens * weight.rows));
    const Output output{weight, y.data()};
    context_.products({x.data(), tokens, weight.cols, nullptr, 0.0f, int8}, &output, 1, nullptr);
    keep(what, std::move(y), 2e-6f * static_cast<float>(weight.cols) * stored.elements.largest());
  }

  void norm() {
    constexpr int64_t n = 43;
    const std::vector<float> x = random_.numbers(n), weight = random_.numbers(n);
    std::vector<float> out(n);
    // Sums of 43 squares below 1.
    keep("sums of squares", {kernels_.sum_of_squares(x.data(), n)}, 43 * 1e-6f);
    kernels_.weigh(x.data(), weight.data(), 1.7f, n, out.data());
    keep("norms", std::move(out), 1e-6f);
  }

  // Sums of two products below 1.
  void rope() {
    constexpr int64_t kHeads = 2, kDim = 38;
    std::vector<float> x = random_.numbers(kHeads * kDim);
    context_.rope(x.data(), 1, kHeads, kDim, 11, 10000.0);
    keep("rotation", std::move(x), 1e-6f);
  }

  // Of magnitude up to 8; the exponential is good to about 1e-7.
  void geglu() {
    constexpr int64_t n = 43;
    std::vector<float> gate = random_.numbers(n);
    for (float& v : gate) v *= 8.0f;
    const std::vector<float> up = random_.numbers(n);
    std::vector<float> out(n);
    kernels_.geglu(gate.data(), up.data(), n, out.data());
    keep("activation", std::move(out), 8e-6f);
  }

  // Rounded in one place: the same everywhere. Infinity, numbers that f16 holds only as subnormals.
  void to_f16() {
    constexpr int64_t n = 43;
    std::vector<float> x = random_.numbers(n);
    x[3] *= 1e5f;
    for (size_t i = 30; i < n; i++) x[i] *= 1e-5f;
    std::vector<uint8_t> halves(2 * n);
    kernels_.to_f16(x.data(), n, halves.data());
    keep("rounding to f16", {halves.begin(), halves.end()}, 0.0f);
  }

  // Weighted means of numbers below 1; the weights err as the exponential and sums of `dim`
  // products do. A segment of the cache and a part of the next.
  void attention(const char* what, Format format, int64_t tokens, int64_t dim) {
    constexpr int64_t kHeads = 4, kKvHeads = 2, kPosition = kSegment + 6;
    const int64_t depth = kPosition + tokens;
    const Elements keys(random_, format, kKvHeads * depth * dim);
    const Elements values(random_, format, kKvHeads * depth * dim);
    const std::vector<float> q = random_.numbers(tokens * kHeads * dim);
    std::vector<float> out(static_cast<size_t>(tokens * kHeads * dim));
    const int64_t entry = bytes_of(format, dim), head = depth * entry;
    context_.attention({q.data(), keys.bytes(), values.bytes(), format == Format::f16, head, entry, head,
                        entry, tokens, kHeads, kKvHeads, dim, kPosition, 0.3f, out.data()});
    keep(what, std::move(out), 4e-6f);
  }

  // Bytes and scales to the bit; of the statistics, f32 sums of 32 squares.
  void encode(const char* what, Format target, Format source) {
    constexpr int64_t kBlocks = 5;
    const Elements elements(random_, source, kBlocks * kBlock);
    std::vector<uint8_t> in(elements.bytes(), elements.bytes() + bytes_of(source, kBlocks * kBlock));
    const auto block = static_cast<size_t>(bytes_of(source, kBlock));
    std::memset(in.data() + block, 0, block);         // the second one is zero,
    std::memset(in.data() + 3 * block, 0xff, block);  // the fourth has no number in it
    std::vector<uint8_t> out(static_cast<size_t>(bytes_of(target, kBlocks * kBlock)) + kBlocks * 4);
    uint8_t* scales = out.data() + out.size() - kBlocks * 4;
    EncodeStats stats;
    kernels_.encode(target, source, in.data(), kBlocks, out.data(), scales, &stats);
    std::vector<float> values(out.begin(), out.end());
    values.push_back(stats.finite ? 1.0f : 0.0f);
    keep(what, std::move(values), 0.0f);
    const float lost = static_cast<float>(std::sqrt(stats.sum_sq_error / stats.sum_sq));
    keep(what, {static_cast<float>(stats.sum_sq), lost}, 1e-4f);
  }

  Kernels kernels_;
  Context context_;
  Random random_;
  std::vector<Result> results_;
};

bool agree(const Result& a, const Result& b) {
  for (size_t i = 0; i < a.values.size(); i++) {
    // Also false for NaN.
    if (!(std::fabs(a.values[i] - b.values[i]) <= a.tolerance)) return false;
  }
  return true;
}

}  // namespace

const char* self_test(const Kernels& kernels) {
  const Trial expected(kernels_portable), got(kernels);
  for (size_t i = 0; i < expected.results().size(); i++) {
    if (!agree(expected.results()[i], got.results()[i])) return expected.results()[i].what;
  }
  return nullptr;
}

}  // namespace cg
