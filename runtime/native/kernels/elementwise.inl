// Operations on rows of floats.

namespace cg {
namespace {

template <Format format>
CG_INLINE void embed_row(const Matrix& table, int64_t row, float scale, float* out) {
  const int64_t cols = table.cols, blocks = cols / kBlock, rest = cols % kBlock;
  const uint8_t* data = table.data + row * bytes_of(format, cols);
  const uint8_t* scales = is_blocked(format) ? table.scales + row * blocks * scale_bytes(format) : nullptr;
  const F factor = set1(scale);
  F v[4];
  for (int64_t b = 0; b < blocks; b++) {
    read_block<format>(data, scales, b, v);
    for (int i = 0; i < 4; i++) store(out + b * kBlock + i * kLanes, mul(v[i], factor));
  }
  if constexpr (!is_blocked(format)) {
    if (rest != 0) {
      float padded[kBlock];
      read_rest<format>(data, blocks, rest, v);
      for (int i = 0; i < 4; i++) store(padded + i * kLanes, mul(v[i], factor));
      memcpy(out + blocks * kBlock, padded, (size_t)rest * sizeof(float));
    }
  }
}

void embed(const Matrix& table, int64_t row, float scale, float* out) {
  switch (table.format) {
    case Format::q4: return embed_row<Format::q4>(table, row, scale, out);
    case Format::i8: return embed_row<Format::i8>(table, row, scale, out);
    case Format::q4h: return embed_row<Format::q4h>(table, row, scale, out);
    case Format::bf16: return embed_row<Format::bf16>(table, row, scale, out);
    case Format::f16: return embed_row<Format::f16>(table, row, scale, out);
    case Format::f32: return embed_row<Format::f32>(table, row, scale, out);
  }
}

float sum_of_squares(const float* x, int64_t n) {
  F sums[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int k = 0; k < 4; k++) {
      const F v = load(x + i + k * kLanes);
      sums[k] = fma(v, v, sums[k]);
    }
  }
  float rest = 0.0f;
  for (; i < n; i++) rest += x[i] * x[i];
  return sum(add(add(sums[0], sums[1]), add(sums[2], sums[3]))) + rest;
}

void weigh(const float* x, const float* weight, float factor, int64_t n, float* out) {
  const F f = set1(factor);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, mul(mul(load(x + i), f), load(weight + i)));
  for (; i < n; i++) out[i] = x[i] * factor * weight[i];
}

void rope(float* x, const float* cosine, const float* sine, int64_t heads, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  for (int64_t head = 0; head < heads; head++) {
    float* first = x + head * head_dim;
    float* second = first + half;
    int64_t i = 0;
    for (; i + kLanes <= half; i += kLanes) {
      const F a = load(first + i), b = load(second + i), c = load(cosine + i), s = load(sine + i);
      store(first + i, sub(mul(a, c), mul(b, s)));
      store(second + i, add(mul(b, c), mul(a, s)));
    }
    for (; i < half; i++) {
      const float a = first[i], b = second[i];
      first[i] = a * cosine[i] - b * sine[i];
      second[i] = b * cosine[i] + a * sine[i];
    }
  }
}

void to_f16(const float* x, int64_t n, uint8_t* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store_f16(out + 2 * i, load(x + i));
  if (i < n) {
    float rest[kLanes] = {};
    uint8_t halves[2 * kLanes];
    memcpy(rest, x + i, (size_t)(n - i) * sizeof(float));
    store_f16(halves, load(rest));
    memcpy(out + 2 * i, halves, 2 * (size_t)(n - i));
  }
}

// gelu_tanh(g) * u, as g / (1 + e^-2v) with v = sqrt(2 / pi) (g + 0.044715 g^3): no cancellation for g < 0.
CG_INLINE F geglu_lanes(F g, F u) {
  const F cubic = fma(mul(mul(g, g), g), set1(0.044715f), g);
  const F e = exponential(mul(cubic, set1(-2.0f * 0.7978845608028654f)));
  return mul(div(g, add(e, set1(1.0f))), u);
}

void geglu(const float* gate, const float* up, int64_t n, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, geglu_lanes(load(gate + i), load(up + i)));
  if (i < n) {
    float g[kLanes] = {}, u[kLanes] = {};
    memcpy(g, gate + i, (size_t)(n - i) * sizeof(float));
    memcpy(u, up + i, (size_t)(n - i) * sizeof(float));
    store(g, geglu_lanes(load(g), load(u)));
    memcpy(out + i, g, (size_t)(n - i) * sizeof(float));
  }
}

}  // namespace
}  // namespace cg
