// Attention over f16 and f32 caches, odd head sizes, shared heads, exact buffer ends.

#include "check.h"
#include "context.h"

namespace {

struct Shape {
  int64_t tokens, heads, kv_heads, head_dim, position;
};

// Values that f16 holds exactly, so that one oracle serves both caches.
float put(test::Random& random, uint8_t* p, bool half) {
  const float value = std::round(random.number() * 64) / 64;
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (half) {
    const uint32_t sign = bits >> 16 & 0x8000;
    const auto h = static_cast<uint16_t>(value == 0 ? sign : sign | ((bits & 0x7fffffff) - 0x38000000) >> 13);
    std::memcpy(p, &h, 2);
  } else {
    std::memcpy(p, &value, 4);
  }
  return value;
}

// Whatever the threads, the result is the same; and right.
void attention(const cg::Kernels& kernels, Shape s, bool half) {
  const int64_t depth = s.position + s.tokens, entry = s.head_dim * (half ? 2 : 4);
  test::Exact q(s.tokens * s.heads * s.head_dim * 4), out(s.tokens * s.heads * s.head_dim * 4);
  test::Exact keys(s.kv_heads * depth * entry, half ? 2 : 0),
      values(s.kv_heads * depth * entry, half ? 2 : 0);
  test::Random random(3);
  std::vector<float> k, v;
  for (int64_t i = 0; i < s.tokens * s.heads * s.head_dim; i++) q.floats()[i] = random.number();
  for (int64_t i = 0; i < s.kv_heads * depth * s.head_dim; i++) {
    k.push_back(put(random, keys.bytes() + i * (half ? 2 : 4), half));
    v.push_back(put(random, values.bytes() + i * (half ? 2 : 4), half));
  }
  const auto compute = [&](int threads) {
    cg::Context(kernels, threads)
        .attention({q.floats(), keys.bytes(), values.bytes(), half, depth * entry, entry, depth * entry,
                    entry, s.tokens, s.heads, s.kv_heads, s.head_dim, s.position, 0.3f, out.floats()});
    const float* first = out.floats();
    return std::vector<float>(first, first + s.tokens * s.heads * s.head_dim);
  };
  const std::vector<float> several = compute(3);
  CHECK(compute(8) == several && compute(1) == several, "%s half=%d: other threads, another result",
        kernels.isa, half);
  for (int64_t t = 0; t < s.tokens; t++) {
    for (int64_t h = 0; h < s.heads; h++) {
      const int64_t at = (t * s.heads + h) * s.head_dim, base = h / (s.heads / s.kv_heads) * depth;
      std::vector<double> mixed(static_cast<size_t>(s.head_dim));
      double total = 0;
      for (int64_t j = 0; j <= s.position + t; j++) {
        double score = 0;
        const size_t row = static_cast<size_t>((base + j) * s.head_dim);
        for (int64_t d = 0; d < s.head_dim; d++)
          score += double(q.floats()[at + d]) * k[row + static_cast<size_t>(d)];
        const double weight = std::exp(score * 0.3f);
        total += weight;
        for (int64_t d = 0; d < s.head_dim; d++) {
          mixed[static_cast<size_t>(d)] += weight * v[row + static_cast<size_t>(d)];
        }
      }
      for (int64_t d = 0; d < s.head_dim; d++) {
        const double expected = mixed[static_cast<size_t>(d)] / total;
        CHECK(std::fabs(out.floats()[at + d] - expected) < 2e-6, "%s half=%d dim %lld: %g, not %g",
              kernels.isa, half, (long long)s.head_dim, out.floats()[at + d], expected);
      }
    }
  }
}

}  // namespace

int main() {
  test::for_each_isa([](const cg::Kernels& kernels) {
    for (const Shape& shape :
         {Shape{1, 1, 1, 1, 0}, Shape{1, 8, 1, 64, 70}, Shape{3, 4, 4, 19, 5}, Shape{9, 6, 2, 24, 130},
          Shape{2, 3, 1, 7, 0}, Shape{21, 4, 1, 16, 8}, Shape{1, 8, 1, 64, 1100}, Shape{3, 2, 1, 16, 638}}) {
      for (const bool half : {false, true}) attention(kernels, shape, half);
    }
  });
  return test::report();
}
