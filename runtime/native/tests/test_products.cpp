// Products of all formats: odd sizes, odd addresses, exact buffer ends, any number of tokens and threads.

#include <algorithm>

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
  context.matmul(weight.matrix, x.floats(), tokens, int8, y.floats());
  if (int8) activations = rounded(activations);
  for (int64_t t = 0; t < tokens; t++) {
    for (int64_t r = 0; r < rows; r++) {
      double expected = 0, magnitude = 0;
      for (int64_t c = 0; c < cols; c++) {
        const double xv = activations[static_cast<size_t>(t * cols + c)];
        const double product = xv * weight.values[static_cast<size_t>(r * cols + c)];
        expected += product;
        magnitude += std::fabs(product) + (int8 && format == Format::q4 ? 8 * std::fabs(xv) : 0);
      }
      const float got = y.floats()[t * rows + r];
      CHECK(std::fabs(got - expected) <= 2e-6 * magnitude,
            "%s %s int8=%d %lldx%lld token %lld row %lld: %g, not %g", kernels.isa,
            test::kFormatNames[static_cast<int>(format)], int8, (long long)rows, (long long)cols,
            (long long)t, (long long)r, got, expected);
    }
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
          for (const int64_t tokens : {1, 2, 3, 4, 7, 17}) {
            product(kernels, format, int8 != 0, 5, cols, tokens, static_cast<int>(cols + tokens) % 4, 1);
          }
        }
        product(kernels, format, int8 != 0, 131, 288, 33, 3, 4);
        product(kernels, format, int8 != 0, 1, 288, 1, 1, 2);
      }
    }
  });
  return test::report();
}
