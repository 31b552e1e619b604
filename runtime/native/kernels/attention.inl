// Causal attention in two passes: scores and softmax, then the weighted sum of the values. Query rows
// that share a kv head share the reading of its keys and values; their results do not depend on that.

namespace cg {
namespace {

struct HalfCache {
  static constexpr int64_t kBytes = 2;
  static constexpr Format kFormat = Format::f16;
};

struct FloatCache {
  static constexpr int64_t kBytes = 4;
  static constexpr Format kFormat = Format::f32;
};

template <class Cache>
CG_INLINE F load_cache(const uint8_t* p) {
  if constexpr (Cache::kFormat == Format::f16) {
    return load_f16(p);
  } else {
    return load_f32(p);
  }
}

// The last n < 8 elements of a cache entry, zeros after them.
template <class Cache>
CG_INLINE F load_cache_rest(const uint8_t* p, int64_t n) {
  uint8_t padded[kLanes * 4] = {};
  memcpy(padded, p, (size_t)(n * Cache::kBytes));
  return load_cache<Cache>(padded);
}

CG_INLINE F load_rest(const float* p, int64_t n) {
  float padded[kLanes] = {};
  memcpy(padded, p, (size_t)n * sizeof(float));
  return load(padded);
}

struct QueryRow {
  const float* q;
  float* out;
  float* scores;
  int64_t depth;  // cache entries that it sees
};

// Scores of R rows with cache entries [begin, end).
template <class Cache, int R>
CG_INLINE void score(const QueryRow* rows, const uint8_t* keys, int64_t stride, int64_t head_dim, float scale,
                     int64_t begin, int64_t end) {
  const int64_t whole = head_dim / kLanes * kLanes, rest = head_dim - whole;
  for (int64_t j = begin; j < end; j++) {
    const uint8_t* key = keys + j * stride;
    F sums[R];
    for (int r = 0; r < R; r++) sums[r] = zero();
    for (int64_t i = 0; i < whole; i += kLanes) {
      const F k = load_cache<Cache>(key + i * Cache::kBytes);
      for (int r = 0; r < R; r++) sums[r] = fma(k, load(rows[r].q + i), sums[r]);
    }
    if (rest != 0) {
      const F k = load_cache_rest<Cache>(key + whole * Cache::kBytes, rest);
      for (int r = 0; r < R; r++) sums[r] = fma(k, load_rest(rows[r].q + whole, rest), sums[r]);
    }
    for (int r = 0; r < R; r++) rows[r].scores[j] = sum(sums[r]) * scale;
  }
}

// Scores to e^(score - largest), in place; returns their sum.
CG_INLINE float soften(float* scores, int64_t n) {
  F tops = set1(scores[0]);
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) tops = max(tops, load(scores + j));
  float top = largest(tops);
  for (; j < n; j++) top = scores[j] > top ? scores[j] : top;
  const F shift = set1(top);
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

// Adds entries [begin, end), weighted, to the outputs of R rows.
template <class Cache, int R>
CG_INLINE void mix(const QueryRow* rows, const uint8_t* values, int64_t stride, int64_t head_dim,
                   int64_t begin, int64_t end) {
  constexpr int64_t kPiece = 64;  // entries that stay in the cache while the head's dimensions pass
  for (int64_t piece = begin; piece < end; piece += kPiece) {
    const int64_t stop = piece + kPiece < end ? piece + kPiece : end;
    int64_t i = 0;
    for (; i + 2 * kLanes <= head_dim; i += 2 * kLanes) {
      F sums[2 * R];
      for (int r = 0; r < R; r++) {
        sums[2 * r] = load(rows[r].out + i);
        sums[2 * r + 1] = load(rows[r].out + i + kLanes);
      }
      for (int64_t j = piece; j < stop; j++) {
        const uint8_t* value = values + j * stride + i * Cache::kBytes;
        const F first = load_cache<Cache>(value), second = load_cache<Cache>(value + kLanes * Cache::kBytes);
        for (int r = 0; r < R; r++) {
          const F weight = set1(rows[r].scores[j]);
          sums[2 * r] = fma(weight, first, sums[2 * r]);
          sums[2 * r + 1] = fma(weight, second, sums[2 * r + 1]);
        }
      }
      for (int r = 0; r < R; r++) {
        store(rows[r].out + i, sums[2 * r]);
        store(rows[r].out + i + kLanes, sums[2 * r + 1]);
      }
    }
    for (; i < head_dim; i += kLanes) {
      const int64_t n = head_dim - i < kLanes ? head_dim - i : kLanes;
      for (int r = 0; r < R; r++) {
        F sums = load_rest(rows[r].out + i, n);
        for (int64_t j = piece; j < stop; j++) {
          const F value = load_cache_rest<Cache>(values + j * stride + i * Cache::kBytes, n);
          sums = fma(set1(rows[r].scores[j]), value, sums);
        }
        float last[kLanes];
        store(last, sums);
        memcpy(rows[r].out + i, last, (size_t)n * sizeof(float));
      }
    }
  }
}

template <class Cache, int R>
void attend(const AttentionArgs& args, const uint8_t* keys, const uint8_t* values, const QueryRow* rows) {
  // Later tokens see more; what only some rows see is done row by row, so that nobody touches the future.
  const int64_t shared = rows[0].depth, dim = args.head_dim;
  score<Cache, R>(rows, keys, args.key_token_stride, dim, args.scale, 0, shared);
  float totals[R];
  for (int r = 0; r < R; r++) {
    score<Cache, 1>(rows + r, keys, args.key_token_stride, dim, args.scale, shared, rows[r].depth);
    totals[r] = soften(rows[r].scores, rows[r].depth);
    for (int64_t i = 0; i < dim; i++) rows[r].out[i] = 0.0f;
  }
  mix<Cache, R>(rows, values, args.value_token_stride, dim, 0, shared);
  for (int r = 0; r < R; r++) {
    mix<Cache, 1>(rows + r, values, args.value_token_stride, dim, shared, rows[r].depth);
    const float inverse = 1.0f / totals[r];
    for (int64_t i = 0; i < dim; i++) rows[r].out[i] *= inverse;
  }
}

template <class Cache>
void attend_tile(const AttentionArgs& args, int64_t kv_head, int64_t first, int64_t count, float* scores) {
  const int64_t group = args.heads / args.kv_heads, depth = args.position + args.tokens;
  QueryRow rows[kQueryTile];
  for (int64_t r = 0; r < count; r++) {
    const int64_t token = (first + r) / group, head = kv_head * group + (first + r) % group;
    const int64_t at = (token * args.heads + head) * args.head_dim;
    rows[r] = {args.q + at, args.out + at, scores + r * depth, args.position + token + 1};
  }
  const uint8_t* keys = args.keys + kv_head * args.key_head_stride;
  const uint8_t* values = args.values + kv_head * args.value_head_stride;
  if (count == kQueryTile) {
    attend<Cache, kQueryTile>(args, keys, values, rows);
  } else {
    for (int64_t r = 0; r < count; r++) attend<Cache, 1>(args, keys, values, rows + r);
  }
}

void attention(const AttentionArgs& args, int64_t kv_head, int64_t first, int64_t count, float* scores) {
  if (args.half) {
    attend_tile<HalfCache>(args, kv_head, first, count, scores);
  } else {
    attend_tile<FloatCache>(args, kv_head, first, count, scores);
  }
}

}  // namespace
}  // namespace cg
