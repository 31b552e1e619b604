#include "context.h"

#include <algorithm>
#include <cmath>

namespace cg {
namespace {

// Below about this many multiply-adds (a few microseconds) a second thread costs more than it brings.
constexpr int64_t kSmallWork = 1 << 16;
// Pieces per thread: enough to even out cores of unequal speed, few enough to read memory in long runs.
constexpr int64_t kPiecesPerThread = 4;
// Fewest rows in a piece of a product.
constexpr int64_t kFewestRows = 16;
// Tokens for which reading weights still costs more than computing.
constexpr int64_t kFewTokens = 16;
constexpr size_t kCacheLine = 64;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

void* Scratch::bytes(size_t size) {
  if (size > size_) {
    memory_.reset();  // first, so that old and new do not coexist
    size_ = 0;
    memory_.reset(new std::byte[size + kCacheLine]);
    size_ = size;
  }
  void* p = memory_.get();
  size_t space = size_ + kCacheLine;
  return std::align(kCacheLine, size, p, space);
}

struct Context::Team {
  explicit Team(int threads) : pool(threads) {}

  std::mutex mutex;
  ThreadPool pool;
  Scratch quantized_values, quantized_scales, quantized_offsets, scores, angles;
  // What the table of angles holds: it serves queries and keys of all layers of a forward pass.
  int64_t angles_position = 0, angles_tokens = 0, angles_dim = 0;
  double angles_theta = 0.0;

  // Splits [0, n) into pieces of at least `fewest` and calls f(begin, end, thread) for each.
  template <class F>
  void split(int64_t n, int64_t fewest, int64_t work, F f) {
    const int64_t wanted = work < kSmallWork ? 1 : pool.threads() * kPiecesPerThread;
    const int64_t pieces = pool.threads() == 1 ? 1 : std::max<int64_t>(1, std::min(wanted, n / fewest));
    auto piece = [&](int64_t i, int thread) { f(n * i / pieces, n * (i + 1) / pieces, thread); };
    pool.for_each(pieces, piece);
  }
};

Context::Context(const Kernels& kernels, int threads)
    : kernels_(kernels), threads_(threads), team_(std::make_unique<Team>(threads)) {}

Context::~Context() = default;

void Context::after_fork() {
  (void)team_.release();
  team_ = std::make_unique<Team>(threads_);
}

void Context::matmul(const Matrix& weight, const float* x, int64_t tokens, bool int8, float* y) {
  std::lock_guard<std::mutex> lock(team_->mutex);
  const bool quantize = int8 && is_blocked(weight.format);
  ProductArgs args{weight, x, {}, tokens, y};
  if (quantize) {
    QuantizedTokens& q = args.quantized;
    q.blocks = divide_up(weight.cols / kBlock, kBlockGroup) * kBlockGroup;
    q.values = team_->quantized_values.get<int8_t>(tokens * q.blocks * kBlock);
    q.scales = team_->quantized_scales.get<float>(tokens * q.blocks);
    q.offsets = team_->quantized_offsets.get<float>(tokens * q.blocks);
    team_->split(tokens, 1, tokens * weight.cols, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; t++) {
        kernels_.quantize_token(weight.format, x + t * weight.cols, weight.cols, q, t);
      }
    });
  }
  const auto format = static_cast<size_t>(weight.format);
  const Products& products = quantize ? kernels_.int8_products[format] : kernels_.f32_products[format];
  const Product product = tokens == 1 ? products.one : tokens <= kFewTokens ? products.few : products.many;
  team_->split(weight.rows, kFewestRows, weight.rows * weight.cols * tokens,
               [&](int64_t begin, int64_t end, int) { product(args, begin, end); });
}

int64_t Context::embed(const Matrix& table, const int32_t* ids, int64_t tokens, float scale, float* out) {
  for (int64_t t = 0; t < tokens; t++) {
    if (ids[t] < 0 || ids[t] >= table.rows) return t;
  }
  std::lock_guard<std::mutex> lock(team_->mutex);
  team_->split(tokens, 1, tokens * table.cols, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) kernels_.embed(table, ids[t], scale, out + t * table.cols);
  });
  return -1;
}

void Context::rms_norm(const float* x, const float* weight, float eps, int64_t tokens, int64_t n,
                       float* out) {
  std::lock_guard<std::mutex> lock(team_->mutex);
  team_->split(tokens, 1, tokens * n, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const float mean = kernels_.sum_of_squares(x + t * n, n) / static_cast<float>(n);
      kernels_.weigh(x + t * n, weight, 1.0f / std::sqrt(mean + eps), n, out + t * n);
    }
  });
}

void Context::rope(float* x, int64_t tokens, int64_t heads, int64_t head_dim, int64_t position,
                   double theta) {
  std::lock_guard<std::mutex> lock(team_->mutex);
  Team& team = *team_;
  const int64_t half = head_dim / 2, per_token = 2 * half;
  const bool known = team.angles_dim == head_dim && team.angles_theta == theta &&
                     team.angles_position <= position &&
                     position + tokens <= team.angles_position + team.angles_tokens;
  const int64_t held = known ? team.angles_tokens : tokens, start = known ? team.angles_position : position;
  float* table = team.angles.get<float>(held * per_token);
  if (!known) {
    for (int64_t i = 0; i < half; i++) {
      const double inverse = std::pow(theta, -static_cast<double>(2 * i) / static_cast<double>(head_dim));
      for (int64_t t = 0; t < tokens; t++) {
        const double angle = static_cast<double>(position + t) * inverse;
        table[t * per_token + i] = static_cast<float>(std::cos(angle));
        table[t * per_token + half + i] = static_cast<float>(std::sin(angle));
      }
    }
    team.angles_position = position;
    team.angles_tokens = tokens;
    team.angles_dim = head_dim;
    team.angles_theta = theta;
  }
  team.split(tokens, 1, tokens * heads * head_dim, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const float* cosine = table + (position - start + t) * per_token;
      kernels_.rope(x + t * heads * head_dim, cosine, cosine + half, heads, head_dim);
    }
  });
}

void Context::attention(const AttentionArgs& args) {
  std::lock_guard<std::mutex> lock(team_->mutex);
  const int64_t rows = args.tokens * (args.heads / args.kv_heads), depth = args.position + args.tokens;
  // One token's heads are shared out before they share a pass.
  const int64_t tile = args.kv_heads == 1 && rows < threads_ * int64_t{kQueryTile}
                           ? std::clamp<int64_t>(rows / threads_, 1, kQueryTile)
                           : kQueryTile;
  const int64_t tiles = divide_up(rows, tile), work = args.kv_heads * rows * depth * args.head_dim;
  float* scores = team_->scores.get<float>(team_->pool.threads() * kQueryTile * depth);
  auto one = [&](int64_t i, int thread) {
    const int64_t first = i % tiles * tile;
    kernels_.attention(args, i / tiles, first, std::min(tile, rows - first),
                       scores + thread * kQueryTile * depth);
  };
  if (work < kSmallWork) {
    for (int64_t i = 0; i < args.kv_heads * tiles; i++) one(i, 0);
  } else {
    team_->pool.for_each(args.kv_heads * tiles, one);
  }
}

void Context::geglu(const float* gate, const float* up, int64_t n, float* out) {
  std::lock_guard<std::mutex> lock(team_->mutex);
  constexpr int64_t kOperations = 16;  // per element
  team_->split(n, 1024, n * kOperations, [&](int64_t begin, int64_t end, int) {
    kernels_.geglu(gate + begin, up + begin, end - begin, out + begin);
  });
}

}  // namespace cg
