// A whole layer: the operations one after the other, without the caller's work between them.

#include <cstring>

#include "context.h"
#include "team.h"

namespace cg {

void Context::layer(const LayerWeights& w, const LayerArgs& args) {
  Lock lock(team_->mutex);
  Team& team = *team_;
  const int64_t tokens = args.tokens, hidden = w.q.cols, dim = args.head_dim;
  const int64_t heads = w.q.rows / dim, kv_heads = w.k.rows / dim;
  const int64_t first = args.last_only ? tokens - 1 : 0, asked = tokens - first;
  float* x = args.x + first * hidden;
  float* q = team.queries.get<float>(asked * w.q.rows);
  float* k = team.keys.get<float>(tokens * w.k.rows);
  float* v = team.values.get<float>(tokens * w.v.rows);
  float* mixed = team.mixed.get<float>(asked * w.q.rows);
  float* inner = team.inner.get<float>(asked * w.gate.rows);
  const auto normed = [&](const float* from, int64_t count, const float* norm) {
    return Input{from, count, hidden, norm, args.eps, args.int8};
  };
  const auto add = [&](const float* from, const Matrix& weight) {
    const Output output{weight, x};
    products({from, asked, weight.cols, nullptr, 0.0f, args.int8}, &output, 1, x);
  };

  const Output outputs[] = {{w.q, q}, {w.k, k}, {w.v, v}};
  if (asked == tokens) {
    products(normed(x, tokens, w.input_norm), outputs, 3, nullptr);
  } else {
    products(normed(args.x, tokens, w.input_norm), outputs + 1, 2, nullptr);
    products(normed(x, asked, w.input_norm), outputs, 1, nullptr);
  }
  rope(k, tokens, kv_heads, dim, args.position, args.theta);
  rope(q, asked, heads, dim, args.position + first, args.theta);
  store(k, kv_heads, args, args.keys);
  store(v, kv_heads, args, args.values);
  attention({q, args.keys.data, args.values.data, args.half, args.keys.head_stride, args.keys.token_stride,
             args.values.head_stride, args.values.token_stride, asked, heads, kv_heads, dim,
             args.position + first, args.scale, mixed});
  add(mixed, w.o);
  gated_product(normed(x, asked, w.post_norm), w.gate, w.up, inner);
  add(inner, w.down);
}

void Context::store(const float* entries, int64_t kv_heads, const LayerArgs& args, const CachePart& part) {
  const int64_t dim = args.head_dim;
  team_->split(args.tokens, args.tokens * kv_heads * dim, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin * kv_heads; i < end * kv_heads; i++) {
      uint8_t* entry =
          part.data + i % kv_heads * part.head_stride + (args.position + i / kv_heads) * part.token_stride;
      if (args.half) {
        kernels_.to_f16(entries + i * dim, dim, entry);
      } else {
        std::memcpy(entry, entries + i * dim, static_cast<size_t>(dim) * sizeof(float));
      }
    }
  });
}

}  // namespace cg
