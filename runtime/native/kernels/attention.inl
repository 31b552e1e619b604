// Causal attention. Keys and values are taken in segments of fixed length; each segment has a softmax of its
// own, and they are joined in a fixed order. So neither the threads nor the neighbours of a query change its
// result.

namespace cg {
namespace {

// Keys that are asked for ahead.
constexpr int64_t kAhead = 8;
// Rows that do without a copy of a segment as floats.
constexpr int64_t kFewRows = 8;
constexpr int64_t kDims = kWideLanes * kMixVectors;

// The top of no scores: joined with others, they stay as they are.
constexpr float kNothing = -3e38f;

// Head dimensions in scratch memory: padded with zeros.
CG_INLINE int64_t padded(int64_t head_dim) { return (head_dim + kDims - 1) / kDims * kDims; }

// What a row has of a segment, or of several: the values weighted with e^(score - top), then top and the sum
// of the weights.
int64_t partial_floats(int64_t head_dim) { return padded(head_dim) + kWideLanes; }

int64_t attention_floats(int64_t head_dim) {
  return (kQueryTile + kSegment) * padded(head_dim) + kQueryTile * kSegment;
}

struct AttentionScratch {
  float* queries;  // [kQueryTile, padded]
  float* entries;  // keys, then values [kSegment, padded], for many rows
  float* scores;   // [kQueryTile, kSegment]
};

// A segment's keys or values as floats in scratch memory.
struct FloatEntries {
  const float* base;
  int64_t width;
  CG_MEMBER W at(int64_t entry, int64_t i) const { return load_wide(base + entry * width + i); }
};

// The same as they lie in the cache.
struct HalfEntries {
  const uint8_t* base;
  int64_t stride;
  CG_MEMBER W at(int64_t entry, int64_t i) const { return load_wide_half(base + entry * stride + 2 * i); }
};

CG_INLINE F load_rest(const float* p, int64_t n) {
  float all[kLanes] = {};
  memcpy(all, p, (size_t)n * sizeof(float));
  return load(all);
}

// `n` floats, stored as f16 or f32, and zeros up to `width`.
CG_INLINE void widen(const uint8_t* from, bool half, int64_t n, int64_t width, float* to) {
  if (half) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(to + i, load_f16(from + 2 * i));
    if (i < n) {
      uint8_t last[kLanes * 2] = {};
      memcpy(last, from + 2 * i, (size_t)(n - i) * 2);
      float floats[kLanes];
      store(floats, load_f16(last));
      memcpy(to + i, floats, (size_t)(n - i) * sizeof(float));
    }
  } else {
    memcpy(to, from, (size_t)n * sizeof(float));
  }
  for (int64_t i = n; i < width; i++) to[i] = 0.0f;
}

// Scores of R rows with N keys.
template <int R, int N, class Entries>
CG_INLINE void score(const float* queries, const Entries& keys, int64_t key, int64_t width, float scale,
                     float* scores) {
  constexpr int kSums = (R * N + 3) / 4 * 4;
  W sums[kSums];
  for (W& v : sums) v = wide_zero();
  for (int64_t i = 0; i < width; i += kWideLanes) {
    W k[N];
    for (int j = 0; j < N; j++) k[j] = keys.at(key + j, i);
    for (int r = 0; r < R; r++) {
      const W q = load_wide(queries + r * width + i);
      for (int j = 0; j < N; j++) sums[r * N + j] = fma(k[j], q, sums[r * N + j]);
    }
  }
  float all[kSums];
  for (int i = 0; i < kSums; i += 4) sum_four(sums + i, all + i);
  for (int r = 0; r < R; r++) {
    for (int j = 0; j < N; j++) scores[r * kSegment + key + j] = all[r * N + j] * scale;
  }
}

// Scores of all rows with N keys, R rows at a time.
template <int R, int N, class Entries>
CG_INLINE void score_keys(const AttentionScratch& s, int64_t rows, const Entries& keys, int64_t key,
                          int64_t width, float scale) {
  int64_t r = 0;
  for (; r + R <= rows; r += R)
    score<R, N>(s.queries + r * width, keys, key, width, scale, s.scores + r * kSegment);
  for (; r < rows; r++) score<1, N>(s.queries + r * width, keys, key, width, scale, s.scores + r * kSegment);
}

// Scores to e^(score - top), in place; returns their sum.
CG_INLINE float soften(float* scores, int64_t n, float* top) {
  F tops = set1(scores[0]);
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) tops = max(tops, load(scores + j));
  *top = largest(tops);
  for (; j < n; j++) *top = scores[j] > *top ? scores[j] : *top;
  const F shift = set1(*top);
  F sums = zero();
  j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    const F e = exponential(sub(load(scores + j), shift));
    store(scores + j, e);
    sums = add(sums, e);
  }
  float total = sum(sums);
  if (j < n) {
    float last[kLanes];
    store(last, exponential(sub(load_rest(scores + j, n - j), shift)));
    for (int64_t i = 0; i < n - j; i++) total += last[i];
    memcpy(scores + j, last, (size_t)(n - j) * sizeof(float));
  }
  return total;
}

// Adds entries [begin, end), weighted, to the partial results of R rows.
template <int R, class Entries>
CG_INLINE void mix(const AttentionScratch& s, int64_t row, const Entries& values, int64_t begin, int64_t end,
                   int64_t width, float* partials) {
  const int64_t stride = width + kWideLanes;
  for (int64_t i = 0; i < width; i += kDims) {
    W sums[R][kMixVectors];
    for (int r = 0; r < R; r++) {
      for (int v = 0; v < kMixVectors; v++)
        sums[r][v] = load_wide(partials + r * stride + i + v * kWideLanes);
    }
    for (int64_t j = begin; j < end; j++) {
      W value[kMixVectors];
      for (int v = 0; v < kMixVectors; v++) value[v] = values.at(j, i + v * kWideLanes);
      for (int r = 0; r < R; r++) {
        const W weight = wide_set1(s.scores[(row + r) * kSegment + j]);
        for (int v = 0; v < kMixVectors; v++) sums[r][v] = fma(weight, value[v], sums[r][v]);
      }
    }
    for (int r = 0; r < R; r++) {
      for (int v = 0; v < kMixVectors; v++) store(partials + r * stride + i + v * kWideLanes, sums[r][v]);
    }
  }
}

// Softmax and weighted values of all rows, each of which sees seen[r] entries.
template <class Entries>
CG_INLINE void mix_rows(const AttentionScratch& s, int64_t rows, const int64_t* seen, const Entries& values,
                        int64_t width, float* partials) {
  const int64_t stride = width + kWideLanes;
  for (int64_t r = 0; r < rows; r++) {
    float* partial = partials + r * stride;
    for (int64_t i = 0; i < width; i++) partial[i] = 0.0f;
    partial[width] = kNothing;
    partial[width + 1] = seen[r] > 0 ? soften(s.scores + r * kSegment, seen[r], partial + width) : 0.0f;
  }
  int64_t r = 0;
  for (; r + kMixRows <= rows; r += kMixRows) {
    // What only some rows see is done row by row, so that nobody touches the future.
    mix<kMixRows>(s, r, values, 0, seen[r], width, partials + r * stride);
    for (int64_t k = 1; k < kMixRows; k++)
      mix<1>(s, r + k, values, seen[r], seen[r + k], width, partials + (r + k) * stride);
  }
  for (; r < rows; r++) mix<1>(s, r, values, 0, seen[r], width, partials + r * stride);
}

// Scores of all rows with `n` keys straight from the cache; the values are asked for meanwhile.
template <int R, int N>
void score_cached(const AttentionArgs& args, const AttentionScratch& s, int64_t rows, const HalfEntries& keys,
                  const uint8_t* values, int64_t n) {
  const int64_t dim = args.head_dim;
  int64_t j = 0;
  for (; j + N <= n; j += N) {
    for (int64_t k = j; k < j + N; k++) {
      for (int64_t line = 0; line < 2 * dim; line += 64) {
        prefetch(keys.base + (k + kAhead) * keys.stride + line);
        prefetch_far(values + k * args.value_token_stride + line);
      }
    }
    score_keys<R, N>(s, rows, keys, j, dim, args.scale);
  }
  for (; j < n; j++) score_keys<R, 1>(s, rows, keys, j, dim, args.scale);
}

void attend(const AttentionArgs& args, int64_t kv_head, int64_t first, int64_t count, int64_t segment,
            float* scratch, float* partials) {
  const int64_t group = args.heads / args.kv_heads, dim = args.head_dim, width = padded(dim);
  const int64_t begin = segment * kSegment;
  const AttentionScratch s{scratch, scratch + kQueryTile * width, scratch + (kQueryTile + kSegment) * width};
  int64_t seen[kQueryTile];  // entries of the segment, by row; later tokens see more
  for (int64_t r = 0; r < count; r++) {
    const int64_t token = (first + r) / group, head = kv_head * group + (first + r) % group;
    const float* q = args.q + (token * args.heads + head) * dim;
    widen((const uint8_t*)q, false, dim, width, s.queries + r * width);
    const int64_t depth = args.position + token + 1 - begin;
    seen[r] = depth < 0 ? 0 : depth < kSegment ? depth : kSegment;
  }
  const int64_t n = seen[count - 1];
  const uint8_t* keys = args.keys + kv_head * args.key_head_stride + begin * args.key_token_stride;
  const uint8_t* values = args.values + kv_head * args.value_head_stride + begin * args.value_token_stride;
  if (count <= kFewRows && args.half && dim == width) {
    // Too few rows to pay for a copy: both are read straight from the cache.
    const HalfEntries direct{keys, args.key_token_stride};
    const auto score_direct =
        count < kDirectRows ? score_cached<kScoreRows, kScoreKeys> : score_cached<kDirectRows, kDirectKeys>;
    score_direct(args, s, count, direct, values, n);
    mix_rows(s, count, seen, HalfEntries{values, args.value_token_stride}, width, partials);
    return;
  }
  const FloatEntries copy{s.entries, width};
  for (int64_t j = 0; j < n; j++)
    widen(keys + j * args.key_token_stride, args.half, dim, width, s.entries + j * width);
  int64_t j = 0;
  for (; j + kScoreKeys <= n; j += kScoreKeys)
    score_keys<kScoreRows, kScoreKeys>(s, count, copy, j, width, args.scale);
  for (; j < n; j++) score_keys<kScoreRows, 1>(s, count, copy, j, width, args.scale);
  for (j = 0; j < n; j++)
    widen(values + j * args.value_token_stride, args.half, dim, width, s.entries + j * width);
  mix_rows(s, count, seen, copy, width, partials);
}

void join(int64_t head_dim, const float* partial, float* state) {
  const int64_t width = padded(head_dim);
  const float old_top = state[width], new_top = partial[width];
  const float top = old_top > new_top ? old_top : new_top;
  float factors[kLanes] = {old_top - top, new_top - top};
  store(factors, exponential(load(factors)));
  const W old_factor = wide_set1(factors[0]), new_factor = wide_set1(factors[1]);
  for (int64_t i = 0; i < width; i += kWideLanes)
    store(state + i, fma(load_wide(partial + i), new_factor, mul(load_wide(state + i), old_factor)));
  state[width] = top;
  state[width + 1] = state[width + 1] * factors[0] + partial[width + 1] * factors[1];
}

void conclude(int64_t head_dim, const float* state, float* out) {
  const float inverse = 1.0f / state[padded(head_dim) + 1];
  for (int64_t i = 0; i < head_dim; i++) out[i] = state[i] * inverse;
}

}  // namespace
}  // namespace cg
