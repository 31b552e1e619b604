// Products of all formats: odd sizes, odd addresses, exact buffer ends, any number of tokens and threads.

#include <algorithm>
#include <thread>

#include "check.h"
#include "context.h"

namespace {

using cg::Format;

// int8 activations as the definition has them.
std::vector<float> rounded(const std::vector<float>& x) {
  std::vector<float> r(x.size());
  for (size_t b = 0; b < x.size(); b += 32) {
    float amax = 0;
    for (size_t i = b; i < b + 32; i++) amax = std::max(amax, std::fabs(x[i]));
    const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
    for (size_t i = b; i < b + 32; i++) r[i] = std::nearbyint(x[i] * inverse) * (amax / 127.0f);
  }
  return r;
}

void product(const cg::Kernels& kernels, Format format, bool int8, int64_t rows, int64_t cols, int64_t tokens,
             int offset, int threads) {
  cg::Context context(kernels, threads);
  test::Stored weight(format, rows, cols, offset, static_cast<uint64_t>(rows * 1000 + cols));
  test::Exact x(tokens * cols * 4), y(tokens * rows * 4);
  std::vector<float> activations(static_cast<size_t>(tokens * cols));
  test::Random random(7);
  for (float& v : activations) v = random.number();
  std::memcpy(x.bytes(), activations.data(), activations.size() * 4);
  const cg::Output output{weight.matrix, y.floats()};
  context.products({x.floats(), tokens, cols, nullptr, 0, int8}, &output, 1, nullptr);
  if (int8) activations = rounded(activations);
  for (int64_t t = 0; t < tokens; t++) {
    for (int64_t r = 0; r < rows; r++) {
      double expected = 0, magnitude = 0;
      for (int64_t c = 0; c < cols; c++) {
        const double xv = activations[static_cast<size_t>(t * cols + c)];
        const double product = xv * weight.values[static_cast<size_t>(r * cols + c)];
        expected += product;
        magnitude +=
            std::fabs(product) + (int8 && cg::elements_of(format) == Format::q4 ? 8 * std::fabs(xv) : 0);
      }
      const float got = y.floats()[t * rows + r];
      CHECK(std::fabs(got - expected) <= 2e-6 * magnitude,
            "%s %s int8=%d %lldx%lld token %lld row %lld: %g, not %g", kernels.isa,
            test::kFormatNames[static_cast<int>(format)], int8, (long long)rows, (long long)cols,
            (long long)t, (long long)r, got, expected);
    }
  }
}

// The largest integers of both signs in every place: sums that wrap or saturate in 16 bits would show.
void extremes(const cg::Kernels& kernels, Format format, int64_t tokens) {
  constexpr int64_t kCols = 288, kRows = 35;
  cg::Context context(kernels, 1);
  for (const int byte : {0x00, 0x77, 0x7f, 0x80, 0x88, 0xff}) {
    for (const float sign : {1.0f, -1.0f}) {
      test::Exact data(cg::bytes_of(format, kRows * kCols)), scales(kRows * kCols / 32 * 4);
      test::Exact x(tokens * kCols * 4), y(tokens * kRows * 4);
      std::memset(data.bytes(), byte, static_cast<size_t>(cg::bytes_of(format, kRows * kCols)));
      for (int64_t i = 0; i < kRows * kCols / 32; i++) {
        const uint16_t half = 0x3c00;
        scales.floats()[i] = 1.0f;
        if (format == Format::q4h) std::memcpy(scales.bytes() + 2 * i, &half, 2);
      }
      for (int64_t i = 0; i < tokens * kCols; i++) x.floats()[i] = sign * 127.0f;
      const cg::Output output{{data.bytes(), scales.bytes(), format, kRows, kCols}, y.floats()};
      context.products({x.floats(), tokens, kCols, nullptr, 0, true}, &output, 1, nullptr);
      const int both = (byte & 15) - 8 + (byte >> 4) - 8;
      const int pair = cg::elements_of(format) == Format::q4 ? both : 2 * static_cast<int8_t>(byte);
      const auto expected = static_cast<float>(pair * kCols / 2) * sign * 127.0f;
      for (int64_t i = 0; i < tokens * kRows; i++) {
        CHECK(y.floats()[i] == expected, "%s %s %02x * %g, %lld tokens: %g, not %g", kernels.isa,
              test::kFormatNames[static_cast<int>(format)], byte, sign, (long long)tokens, y.floats()[i],
              expected);
      }
    }
  }
}

// Several threads that use one context get what one alone gets.
void callers(const cg::Kernels& kernels, int64_t tokens) {
  constexpr int64_t kCols = 288, kRows = 131;
  constexpr size_t kCallers = 3;
  cg::Context context(kernels, 3);
  test::Stored weight(Format::q4, kRows, kCols, 1, 5);
  test::Exact x(tokens * kCols * 4);
  test::Random random(9);
  for (int64_t i = 0; i < tokens * kCols; i++) x.floats()[i] = random.number();
  std::vector<test::Exact> y;
  for (size_t i = 0; i <= kCallers; i++) y.emplace_back(tokens * kRows * 4);
  const auto call = [&](size_t i) {
    const cg::Output output{weight.matrix, y[i].floats()};
    context.products({x.floats(), tokens, kCols, nullptr, 0, true}, &output, 1, nullptr);
  };
  call(kCallers);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kCallers; i++) {
    threads.emplace_back([&call, i] {
      for (int round = 0; round < 20; round++) call(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < kCallers; i++) {
    const auto size = static_cast<size_t>(tokens * kRows * 4);
    CHECK(std::memcmp(y[i].bytes(), y[kCallers].bytes(), size) == 0, "%s caller %zu", kernels.isa, i);
  }
}

// Scales in f16, subnormal ones and zeros of both signs too: to the bit what the same scales in f32 give,
// alone and beside a Q4 matrix, with which it shares the rounded activations.
void half_scales(const cg::Kernels& kernels, bool int8, int64_t rows, int64_t cols, int64_t tokens) {
  cg::Context context(kernels, 2);
  test::Stored wide(Format::q4, rows, cols, 1, 11), half(Format::q4h, rows, cols, 3, 12);
  std::memcpy(half.data.bytes(), wide.data.bytes(), static_cast<size_t>(rows * cols / 2));
  for (int64_t b = 0; b < rows * cols / 32; b++) {
    uint16_t bits;
    std::memcpy(&bits, half.scales.bytes() + 2 * b, 2);
    if (b % 3 == 0) bits = static_cast<uint16_t>(bits & 0x83ff);
    if (b % 11 == 0) bits = static_cast<uint16_t>(bits & 0x8000);
    std::memcpy(half.scales.bytes() + 2 * b, &bits, 2);
    const float value = test::value_of_half(bits);
    std::memcpy(wide.scales.bytes() + 4 * b, &value, 4);
  }
  test::Exact x(tokens * cols * 4);
  test::Random random(10);
  for (int64_t i = 0; i < tokens * cols; i++) x.floats()[i] = random.number();
  std::vector<test::Exact> y;
  for (int i = 0; i < 3; i++) y.emplace_back(tokens * rows * 4);
  const cg::Input in{x.floats(), tokens, cols, nullptr, 0, int8};
  const cg::Output outputs[] = {
      {wide.matrix, y[0].floats()}, {half.matrix, y[1].floats()}, {half.matrix, y[2].floats()}};
  context.products(in, outputs, 2, nullptr);
  context.products(in, outputs + 2, 1, nullptr);
  for (const size_t i : {1, 2}) {
    CHECK(std::memcmp(y[0].bytes(), y[i].bytes(), static_cast<size_t>(tokens * rows * 4)) == 0,
          "%s int8=%d %lldx%lld, %lld tokens", kernels.isa, int8, (long long)rows, (long long)cols,
          (long long)tokens);
  }
  std::vector<float> rows_of[] = {std::vector<float>(static_cast<size_t>(cols)),
                                  std::vector<float>(static_cast<size_t>(cols))};
  kernels.embed(wide.matrix, rows - 1, 3.0f, rows_of[0].data());
  kernels.embed(half.matrix, rows - 1, 3.0f, rows_of[1].data());
  CHECK(std::memcmp(rows_of[0].data(), rows_of[1].data(), static_cast<size_t>(cols) * 4) == 0, "%s",
        kernels.isa);
}

// Norm, several matrices at once, residual, gate and up: against the single steps.
void fused(const cg::Kernels& kernels, bool int8, int64_t tokens, int threads) {
  constexpr int64_t kCols = 288, kRows = 67;
  cg::Context context(kernels, threads);
  test::Stored first(Format::q4, kRows, kCols, 1, 1), second(Format::bf16, kRows, kCols, 1, 2);
  test::Exact x(tokens * kCols * 4), norm(kCols * 4), normed(tokens * kCols * 4);
  std::vector<test::Exact> y;
  for (int i = 0; i < 5; i++) y.emplace_back(tokens * kRows * 4);
  test::Random random(8);
  for (int64_t i = 0; i < tokens * kCols; i++) x.floats()[i] = random.number();
  for (int64_t i = 0; i < kCols; i++) norm.floats()[i] = random.number();
  for (int64_t t = 0; t < tokens; t++) {
    const float mean = kernels.sum_of_squares(x.floats() + t * kCols, kCols) / kCols;
    kernels.weigh(x.floats() + t * kCols, norm.floats(), 1 / std::sqrt(mean + 1e-6f), kCols,
                  normed.floats() + t * kCols);
  }
  const cg::Input with_norm{x.floats(), tokens, kCols, norm.floats(), 1e-6f, int8};
  const cg::Input plain{normed.floats(), tokens, kCols, nullptr, 0, int8};
  const cg::Output both[] = {{first.matrix, y[0].floats()}, {second.matrix, y[1].floats()}};
  const cg::Output alone[] = {{first.matrix, y[2].floats()}, {second.matrix, y[3].floats()}};
  context.products(with_norm, both, 2, nullptr);
  context.products(plain, alone, 1, nullptr);
  context.products(plain, alone + 1, 1, nullptr);
  context.gated_product(with_norm, first.matrix, second.matrix, y[4].floats());
  std::vector<float> gated(static_cast<size_t>(tokens * kRows));
  kernels.geglu(y[2].floats(), y[3].floats(), tokens * kRows, gated.data());
  const cg::Output sum{first.matrix, y[3].floats()};
  const std::vector<float> up(y[3].floats(), y[3].floats() + tokens * kRows);
  context.products(plain, &sum, 1, y[3].floats());  // in place
  for (int64_t i = 0; i < tokens * kRows; i++) {
    const auto at = static_cast<size_t>(i);
    CHECK(y[0].floats()[i] == y[2].floats()[i], "%s int8=%d", kernels.isa, int8);
    CHECK(y[1].floats()[i] == up[at], "%s int8=%d", kernels.isa, int8);
    CHECK(std::fabs(y[4].floats()[i] - gated[at]) <= 1e-6f * std::fabs(gated[at]), "%s int8=%d", kernels.isa,
          int8);
    // 2e-6 of the products' magnitudes, which sum up to some 300.
    CHECK(std::fabs(y[3].floats()[i] - (up[at] + y[2].floats()[i])) < 6e-4f, "%s int8=%d", kernels.isa, int8);
  }
}

}  // namespace

int main() {
  test::for_each_isa([](const cg::Kernels& kernels) {
    for (int f = 0; f < cg::kFormats; f++) {
      const auto format = static_cast<Format>(f);
      const bool blocked = cg::is_blocked(format);
      for (int int8 = 0; int8 <= blocked; int8++) {
        for (const int64_t cols : blocked ? std::vector<int64_t>{32, 64, 224, 256, 288, 544}
                                          : std::vector<int64_t>{1, 5, 8, 31, 32, 33, 71, 100}) {
          for (const int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17, 64, 65}) {
            product(kernels, format, int8 != 0, 5, cols, tokens, static_cast<int>(cols + tokens) % 4, 1);
          }
        }
        if (int8) {
          for (const int64_t tokens : {1, 17, 65}) extremes(kernels, format, tokens);
        }
        product(kernels, format, int8 != 0, 131, 288, 33, 3, 4);
        product(kernels, format, int8 != 0, 1, 288, 1, 1, 2);
        for (const int64_t tokens : {17, 65})
          product(kernels, format, int8 != 0, 35, 4224, tokens, 1, 2);  // in pieces of columns
      }
    }
    for (const int64_t tokens : {1, 8, 9, 16, 17, 25, 65}) {
      fused(kernels, false, tokens, 1);
      fused(kernels, true, tokens, 3);
    }
    for (const int64_t tokens : {1, 2, 3, 5, 8, 9, 16, 17, 33, 65}) {
      for (const int64_t cols : {32, 224, 256, 288, 4224}) {
        half_scales(kernels, true, 35, cols, tokens);
        half_scales(kernels, false, 35, cols, tokens);
      }
    }
    for (const int64_t tokens : {2, 33}) callers(kernels, tokens);
  });
  return test::report();
}
