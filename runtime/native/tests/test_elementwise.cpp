// Norm, rotation, activation function and embedding at every small size, with exact buffer ends.

#include "check.h"
#include "context.h"

namespace {

void norm(const cg::Kernels& kernels, int64_t n) {
  constexpr int64_t kTokens = 3;
  test::Exact x(kTokens * n * 4), weight(n * 4), out(kTokens * n * 4);
  test::Random random(1);
  for (int64_t i = 0; i < kTokens * n; i++) x.floats()[i] = random.number();
  for (int64_t i = 0; i < n; i++) weight.floats()[i] = random.number();
  for (int64_t t = 0; t < kTokens; t++) {
    const float mean = kernels.sum_of_squares(x.floats() + t * n, n) / static_cast<float>(n);
    kernels.weigh(x.floats() + t * n, weight.floats(), 1.0f / std::sqrt(mean + 1e-6f), n,
                  out.floats() + t * n);
  }
  for (int64_t t = 0; t < kTokens; t++) {
    double square = 0;
    for (int64_t i = 0; i < n; i++) square += double(x.floats()[t * n + i]) * x.floats()[t * n + i];
    for (int64_t i = 0; i < n; i++) {
      const double expected =
          x.floats()[t * n + i] / std::sqrt(square / static_cast<double>(n) + 1e-6) * weight.floats()[i];
      CHECK(std::fabs(out.floats()[t * n + i] - expected) <= 1e-6 * std::fabs(expected), "%s n=%lld",
            kernels.isa, (long long)n);
    }
  }
}

void rope(const cg::Kernels& kernels, int64_t head_dim) {
  cg::Context context(kernels, 2);
  constexpr int64_t kTokens = 3, kHeads = 2, kPosition = 11;
  const int64_t half = head_dim / 2;
  test::Exact x(kTokens * kHeads * head_dim * 4);
  test::Random random(2);
  for (int64_t i = 0; i < kTokens * kHeads * head_dim; i++) x.floats()[i] = random.number();
  const std::vector<float> before(x.floats(), x.floats() + kTokens * kHeads * head_dim);
  context.rope(x.floats(), kTokens, kHeads, head_dim, kPosition, 10000.0);
  for (int64_t i = 0; i < kTokens * kHeads * head_dim; i++) {
    const int64_t d = i % head_dim, pair = d % half, other = d < half ? i + half : i - half;
    const double angle = double(kPosition + i / (kHeads * head_dim)) *
                         std::pow(10000.0, -2.0 * double(pair) / double(head_dim));
    const double turned = before[static_cast<size_t>(other)] * std::sin(angle);
    const double expected = before[static_cast<size_t>(i)] * std::cos(angle) + (d < half ? -turned : turned);
    CHECK(std::fabs(x.floats()[i] - expected) < 1e-6, "%s head_dim=%lld", kernels.isa, (long long)head_dim);
  }
}

void geglu(const cg::Kernels& kernels, int64_t n) {
  test::Exact gate(n * 4), up(n * 4), out(n * 4);
  test::Random random(3);
  for (int64_t i = 0; i < n; i++) {
    gate.floats()[i] = 8 * random.number();
    up.floats()[i] = random.number();
  }
  kernels.geglu(gate.floats(), up.floats(), n, out.floats());
  for (int64_t i = 0; i < n; i++) {
    const double g = gate.floats()[i], inner = 0.7978845608028654 * (g + 0.044715 * g * g * g);
    const double expected = 0.5 * g * (1 + std::tanh(inner)) * up.floats()[i];
    CHECK(std::fabs(out.floats()[i] - expected) <= 2e-7 + 1e-6 * std::fabs(expected), "%s n=%lld: %g, not %g",
          kernels.isa, (long long)n, out.floats()[i], expected);
  }
}

// Every f16 from itself, from next to itself, and from where ties are.
void to_f16(const cg::Kernels& kernels) {
  const auto rounded = [&](double value) {
    const float x = static_cast<float>(value);
    uint16_t half;
    kernels.to_f16(&x, 1, reinterpret_cast<uint8_t*>(&half));
    return half;
  };
  const auto check = [&](double value, int half) {
    CHECK(rounded(value) == half && rounded(-value) == (half | 0x8000), "%s %g: %x, not %x", kernels.isa,
          value, rounded(value), half);
  };
  for (int half = 0; half < 0x7c00; half++) {
    const int exponent = std::max(half >> 10, 1);
    const double step = std::ldexp(1.0, exponent - 25);
    const double value = step * ((half & 0x3ff) + (half >> 10 != 0 ? 0x400 : 0));
    check(value, half);
    check(value + step / 2, half + (half & 1));
    check(value + step * 0.499, half);
    check(value + step * 0.501, half + 1);
  }
  check(1e6, 0x7c00);
  check(HUGE_VAL, 0x7c00);
  check(1e-30, 0);
  CHECK((rounded(NAN) & 0x7e00) == 0x7e00, "%s NaN", kernels.isa);
}

void to_f16_of_length(const cg::Kernels& kernels, int64_t n) {
  test::Exact x(n * 4), out(n * 2);
  test::Random random(5);
  for (int64_t i = 0; i < n; i++) x.floats()[i] = random.number();
  kernels.to_f16(x.floats(), n, out.bytes());
  for (int64_t i = 0; i < n; i++) {
    uint8_t one[2];
    kernels.to_f16(x.floats() + i, 1, one);
    CHECK(std::memcmp(one, out.bytes() + 2 * i, 2) == 0, "%s n=%lld", kernels.isa, (long long)n);
  }
}

void embed(const cg::Kernels& kernels, cg::Format format, int64_t cols) {
  cg::Context context(kernels, 2);
  test::Stored table(format, 7, cols, 1, 4);
  const std::vector<int32_t> ids{6, 0, 3, 6};
  test::Exact out(4 * cols * 4);
  CHECK(context.embed(table.matrix, ids.data(), 4, 3.0f, out.floats()) == -1, "%s", kernels.isa);
  for (int64_t i = 0; i < 4 * cols; i++) {
    const size_t at = static_cast<size_t>(ids[static_cast<size_t>(i / cols)] * cols + i % cols);
    CHECK(out.floats()[i] == table.values[at] * 3.0f, "%s %s cols=%lld", kernels.isa,
          test::kFormatNames[static_cast<int>(format)], (long long)cols);
  }
  const std::vector<int32_t> bad{0, 7};
  CHECK(context.embed(table.matrix, bad.data(), 2, 3.0f, out.floats()) == 1, "%s", kernels.isa);
}

}  // namespace

int main() {
  test::for_each_isa([](const cg::Kernels& kernels) {
    for (int64_t n = 1; n <= 70; n++) {
      norm(kernels, n);
      geglu(kernels, n);
      to_f16_of_length(kernels, n);
      rope(kernels, 2 * n);
    }
    geglu(kernels, 5000);
    to_f16(kernels);
    for (int f = 0; f < cg::kFormats; f++) {
      const auto format = static_cast<cg::Format>(f);
      for (int64_t cols = 1; cols <= 70; cols++) {
        if (!cg::is_blocked(format) || cols % cg::kBlock == 0) embed(kernels, format, cols);
      }
    }
  });
  return test::report();
}
