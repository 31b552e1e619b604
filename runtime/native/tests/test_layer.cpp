// A layer in one call against its operations one by one, to the bit, with exact buffer ends.

#include <algorithm>
#include <thread>

#include "check.h"
#include "context.h"

namespace {

constexpr int64_t kHidden = 64, kInner = 96, kDim = 38, kHeads = 4;
constexpr float kEps = 1e-6f, kScale = 0.2f;
constexpr double kTheta = 10000.0;

struct Layer {
  Layer(cg::Format format, int64_t kv_heads)
      // Columns are whole blocks: o reads a multiple of 32 of them.
      : q(format, kHeads * dim(format), kHidden, 2, 1),
        k(format, kv_heads * dim(format), kHidden, 2, 2),
        v(format, kv_heads * dim(format), kHidden, 2, 3),
        o(format, kHidden, kHeads * dim(format), 2, 4),
        gate(format, kInner, kHidden, 2, 5),
        up(format, kInner, kHidden, 2, 6),
        down(format, kHidden, kInner, 2, 7),
        head_dim(dim(format)),
        input_norm(kHidden * 4),
        post_norm(kHidden * 4) {
    test::Random random(8);
    for (int64_t i = 0; i < kHidden; i++) {
      input_norm.floats()[i] = random.number();
      post_norm.floats()[i] = random.number();
    }
    weights = {input_norm.floats(), q.matrix,    k.matrix,  v.matrix,   o.matrix,
               post_norm.floats(),  gate.matrix, up.matrix, down.matrix};
  }

  static int64_t dim(cg::Format format) { return cg::is_blocked(format) ? 40 : kDim; }

  test::Stored q, k, v, o, gate, up, down;
  int64_t head_dim;
  test::Exact input_norm, post_norm;
  cg::LayerWeights weights;
};

struct Cache {
  Cache(int64_t kv_heads, int64_t capacity, int64_t head_dim, bool half_)
      : half(half_),
        entry(head_dim * (half ? 2 : 4)),
        head(capacity * entry),
        keys(kv_heads * head, half ? 2 : 0),
        values(kv_heads * head, half ? 2 : 0) {}

  bool half;
  int64_t entry, head;
  test::Exact keys, values;
};

// The operations as a caller would make them; returns the outputs that were asked for.
std::vector<float> one_by_one(cg::Context& context, const cg::Kernels& kernels, const Layer& layer,
                              const std::vector<float>& x, int64_t position, bool last_only, bool int8,
                              Cache& cache) {
  const auto tokens = static_cast<int64_t>(x.size()) / kHidden;
  const int64_t kv_rows = layer.weights.k.rows, dim = layer.head_dim, q_rows = kHeads * dim;
  const int64_t first = last_only ? tokens - 1 : 0, asked = tokens - first;
  const auto floats = [](int64_t n) { return std::vector<float>(static_cast<size_t>(n)); };
  std::vector<float> q = floats(asked * q_rows), k = floats(tokens * kv_rows), v = k, mixed = q;
  std::vector<float> inner = floats(asked * kInner);
  std::vector<float> out(x.begin() + first * kHidden, x.end());
  const cg::LayerWeights& w = layer.weights;
  const cg::Output outputs[] = {{w.k, k.data()}, {w.v, v.data()}, {w.q, q.data()}};
  context.products({x.data(), tokens, kHidden, w.input_norm, kEps, int8}, outputs, 2, nullptr);
  context.products({out.data(), asked, kHidden, w.input_norm, kEps, int8}, outputs + 2, 1, nullptr);
  context.rope(k.data(), tokens, kv_rows / dim, dim, position, kTheta);
  context.rope(q.data(), asked, kHeads, dim, position + first, kTheta);
  for (int64_t t = 0; t < tokens; t++) {
    for (int64_t h = 0; h < kv_rows / dim; h++) {
      const int64_t to = h * cache.head + (position + t) * cache.entry, from = t * kv_rows + h * dim;
      if (cache.half) {
        kernels.to_f16(k.data() + from, dim, cache.keys.bytes() + to);
        kernels.to_f16(v.data() + from, dim, cache.values.bytes() + to);
      } else {
        std::memcpy(cache.keys.bytes() + to, k.data() + from, static_cast<size_t>(cache.entry));
        std::memcpy(cache.values.bytes() + to, v.data() + from, static_cast<size_t>(cache.entry));
      }
    }
  }
  context.attention({q.data(), cache.keys.bytes(), cache.values.bytes(), cache.half, cache.head, cache.entry,
                     cache.head, cache.entry, asked, kHeads, kv_rows / dim, dim, position + first, kScale,
                     mixed.data()});
  const cg::Output added{w.o, out.data()};
  context.products({mixed.data(), asked, q_rows, nullptr, 0.0f, int8}, &added, 1, out.data());
  context.gated_product({out.data(), asked, kHidden, w.post_norm, kEps, int8}, w.gate, w.up, inner.data());
  const cg::Output last{w.down, out.data()};
  context.products({inner.data(), asked, kInner, nullptr, 0.0f, int8}, &last, 1, out.data());
  return out;
}

cg::LayerArgs arguments(test::Exact& x, int64_t tokens, int64_t position, bool last_only, bool int8,
                        const Layer& layer, Cache& cache) {
  return {x.floats(),
          tokens,
          position,
          last_only,
          layer.head_dim,
          kScale,
          kEps,
          kTheta,
          int8,
          {cache.keys.bytes(), cache.head, cache.entry},
          {cache.values.bytes(), cache.head, cache.entry},
          cache.half};
}

void layer(const cg::Kernels& kernels, cg::Format format, int64_t kv_heads, bool half, bool int8) {
  const Layer layer(format, kv_heads);
  constexpr int64_t kCapacity = 150;
  cg::Context alone(kernels, 1), several(kernels, 3);
  Cache expected_cache(kv_heads, kCapacity, layer.head_dim, half);
  Cache cache(kv_heads, kCapacity, layer.head_dim, half);
  test::Random random(9);
  int64_t position = 0;
  for (const int64_t tokens : {1, 130, 2, 17}) {
    std::vector<float> x(static_cast<size_t>(tokens * kHidden));
    for (float& value : x) value = random.number();
    for (const bool last_only : {true, false}) {
      const std::vector<float> expected =
          one_by_one(alone, kernels, layer, x, position, last_only, int8, expected_cache);
      test::Exact got(tokens * kHidden * 4);
      std::memcpy(got.bytes(), x.data(), x.size() * 4);
      several.layer(layer.weights, arguments(got, tokens, position, last_only, int8, layer, cache));
      const float* end = got.floats() + tokens * kHidden;
      CHECK(std::vector<float>(end - expected.size(), end) == expected, "%s %s %lld tokens, last %d",
            kernels.isa, test::kFormatNames[static_cast<int>(format)], (long long)tokens, last_only);
      // What is not asked for stays as it was.
      const auto kept = static_cast<std::ptrdiff_t>(x.size() - expected.size());
      CHECK(std::equal(x.begin(), x.begin() + kept, got.floats()), "%s", kernels.isa);
      const auto size = static_cast<size_t>(kv_heads * cache.head);
      CHECK(std::memcmp(cache.keys.bytes(), expected_cache.keys.bytes(), size) == 0 &&
                std::memcmp(cache.values.bytes(), expected_cache.values.bytes(), size) == 0,
            "%s cache", kernels.isa);
    }
    position += tokens;
  }
}

// Callers on several threads take turns: a layer's scratch memory is one caller's at a time.
void callers_take_turns(const cg::Kernels& kernels) {
  const Layer layer(cg::Format::q4, 1);
  cg::Context context(kernels, 2);
  constexpr int64_t kTokens = 5;
  const auto run = [&](uint64_t seed) {
    test::Exact x(kTokens * kHidden * 4);
    test::Random random(seed);
    for (int64_t i = 0; i < kTokens * kHidden; i++) x.floats()[i] = random.number();
    Cache cache(1, kTokens, layer.head_dim, true);
    for (int i = 0; i < 20; i++)
      context.layer(layer.weights, arguments(x, kTokens, 0, false, true, layer, cache));
    return std::vector<float>(x.floats(), x.floats() + kTokens * kHidden);
  };
  const std::vector<float> first = run(1), second = run(2);
  std::vector<float> again;
  std::thread other([&] { again = run(1); });
  const std::vector<float> meanwhile = run(2);
  other.join();
  CHECK(again == first && meanwhile == second, "%s", kernels.isa);
}

}  // namespace

int main() {
  test::for_each_isa([](const cg::Kernels& kernels) {
    for (const bool half : {true, false}) {
      layer(kernels, cg::Format::q4, 1, half, true);
      layer(kernels, cg::Format::q4, 4, half, false);
      layer(kernels, cg::Format::i8, 2, half, true);
      layer(kernels, cg::Format::bf16, 2, half, true);
    }
    callers_take_turns(kernels);
  });
  return test::report();
}
