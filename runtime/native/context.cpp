#include "context.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "segment_tree.h"
#include "shares.h"

namespace cg {
namespace {

// Pieces per thread of what is not a product: enough to even out cores of unequal speed.
constexpr int64_t kPiecesPerThread = 4;
// Rows of a gate that wait for their ups, in a product of few tokens.
constexpr int64_t kGateRows = 64;
constexpr size_t kCacheLine = 64;

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
  explicit Team(int threads) : pool(threads), of_thread(static_cast<size_t>(threads)) {}

  struct OfThread {
    Scratch rows, gate, up, panel, attention;
  };

  std::mutex mutex;
  ThreadPool pool;
  std::vector<OfThread> of_thread;
  Scratch floats, quantized[kElementFormats], states, angles;
  std::vector<SegmentTree> trees;
  // What the table of angles holds: it serves queries and keys of all layers of a forward pass.
  int64_t angles_position = 0, angles_tokens = 0, angles_dim = 0;
  double angles_theta = 0.0;

  // Splits [0, n) into pieces and calls f(begin, end, thread) for each.
  template <class F>
  void split(int64_t n, int64_t work, F f) {
    const int64_t wanted = work < kSmallWork ? 1 : pool.threads() * kPiecesPerThread;
    const int64_t pieces = pool.threads() == 1 ? 1 : std::max<int64_t>(1, std::min(wanted, n));
    auto piece = [&](int64_t i, int thread) { f(n * i / pieces, n * (i + 1) / pieces, thread); };
    pool.for_runs(pieces, piece);
  }
};

// Activations as the products of one call want them.
struct Context::Prepared {
  const float* x;
  QuantizedTokens quantized[kElementFormats];  // by what the weights' elements are
  bool few, few_int8;  // whether they are for row products: of any kind, or those with int8 activations
};

Context::Context(const Kernels& kernels, int threads)
    : kernels_(kernels), threads_(threads), team_(std::make_unique<Team>(threads)) {}

Context::~Context() = default;

void Context::after_fork() {
  (void)team_.release();
  team_ = std::make_unique<Team>(threads_);
}

int64_t Context::embed(const Matrix& table, const int32_t* ids, int64_t tokens, float scale, float* out) {
  for (int64_t t = 0; t < tokens; t++) {
    if (ids[t] < 0 || ids[t] >= table.rows) return t;
  }
  std::lock_guard<std::mutex> lock(team_->mutex);
  team_->split(tokens, tokens * table.cols, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) kernels_.embed(table, ids[t], scale, out + t * table.cols);
  });
  return -1;
}

Context::Prepared Context::prepare(const Input& in, const bool* formats) {
  Team& team = *team_;
  Prepared prepared{in.x, {}, in.tokens <= kFewTokens, in.tokens <= kernels_.few_tokens};
  const Layout layout = prepared.few_int8 ? Layout::rows : Layout::panels;
  bool floats = false, quantized = false;
  for (int i = 0; i < kFormats; i++) {
    const auto format = static_cast<Format>(i);
    if (!formats[i]) continue;
    if (!in.int8 || !is_blocked(format)) {
      floats = true;
      continue;
    }
    const auto f = static_cast<size_t>(elements_of(format));
    const int64_t bytes = kernels_.quantized_bytes(layout, in.cols, in.tokens);
    prepared.quantized[f] = {team.quantized[f].get<std::byte>(bytes), in.tokens};
    quantized = true;
  }
  const int64_t unit = floats && !prepared.few ? kernels_.float_tokens : 1,
                units = divide_up(in.tokens, unit);
  float* all = nullptr;  // of the tokens as floats, where they are not taken as they are
  if (floats && (in.norm != nullptr || !prepared.few)) {
    prepared.x = all = team.floats.get<float>(units * unit * in.cols);
  }
  if (all == nullptr && !quantized) return prepared;
  team.split(units, in.tokens * in.cols, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t first = begin * unit; first < std::min(end * unit, in.tokens); first += unit) {
      const int64_t last = std::min(first + unit, in.tokens);
      float* rows = nullptr;
      if (in.norm != nullptr) {
        rows = all != nullptr && prepared.few
                   ? all + first * in.cols
                   : team.of_thread[static_cast<size_t>(thread)].rows.get<float>(unit * in.cols);
      }
      const float* x[kMostTokens];
      for (int64_t t = first; t < last; t++) {
        x[t - first] = in.x + t * in.cols;
        if (in.norm != nullptr) x[t - first] = normalize(in, t, rows + (t - first) * in.cols);
        for (int f = 0; f < kElementFormats; f++) {
          const QuantizedTokens& q = prepared.quantized[f];
          if (q.data != nullptr)
            kernels_.quantize_token(static_cast<Format>(f), layout, x[t - first], in.cols, q, t);
        }
      }
      if (all != nullptr && !prepared.few)
        kernels_.spread_tokens(x, last - first, in.cols, all + first * in.cols);
    }
  });
  return prepared;
}

const float* Context::normalize(const Input& in, int64_t token, float* out) const {
  const float* x = in.x + token * in.cols;
  const float mean = kernels_.sum_of_squares(x, in.cols) / static_cast<float>(in.cols);
  kernels_.weigh(x, in.norm, 1.0f / std::sqrt(mean + in.eps), in.cols, out);
  return out;
}

void Context::multiply(const Input& in, const Prepared& prepared, const Matrix& weight, int64_t begin,
                       int64_t end, int thread, float* y, int64_t y_stride, int64_t first_row,
                       const float* residual) {
  const auto format = static_cast<size_t>(weight.format);
  const bool int8 = in.int8 && is_blocked(weight.format);
  ProductArgs args{weight, prepared.x, {}, in.tokens, y, residual, y_stride, first_row, nullptr};
  if (int8) args.quantized = prepared.quantized[static_cast<size_t>(elements_of(weight.format))];
  const Products& products = int8 ? kernels_.int8_products[format] : kernels_.f32_products[format];
  if (prepared.few || (int8 && prepared.few_int8)) return products.rows(args, begin, end);
  const int64_t bytes = (int8 ? kernels_.int8_scratch_bytes : kernels_.f32_scratch_bytes)(in.cols, in.tokens);
  args.scratch = team_->of_thread[static_cast<size_t>(thread)].panel.get<uint8_t>(bytes);
  products.panels(args, begin, end);
}

void Context::products(const Input& in, const Output* outputs, int count, const float* residual) {
  std::lock_guard<std::mutex> lock(team_->mutex);
  bool formats[kFormats] = {};
  for (int i = 0; i < count; i++) formats[static_cast<size_t>(outputs[i].weight.format)] = true;
  const Prepared prepared = prepare(in, formats);
  Shares shares(prepared.few ? kRowUnit : kernels_.panel_rows);
  for (int i = 0; i < count; i++) shares.add(outputs[i].weight);
  auto piece = [&](int64_t i, int thread) {
    shares.each(i, [&](int which, int64_t begin, int64_t end) {
      const Output& out = outputs[which];
      multiply(in, prepared, out.weight, begin, end, thread, out.y, out.weight.rows, 0, residual);
    });
  };
  team_->pool.for_runs(shares.cut(in.tokens, threads_), piece);
}

void Context::gated_product(const Input& in, const Matrix& gate, const Matrix& up, float* y) {
  std::lock_guard<std::mutex> lock(team_->mutex);
  bool formats[kFormats] = {};
  formats[static_cast<size_t>(gate.format)] = formats[static_cast<size_t>(up.format)] = true;
  const Prepared prepared = prepare(in, formats);
  const int64_t step = prepared.few ? kGateRows : kernels_.panel_rows;
  Shares shares(prepared.few ? kRowUnit : kernels_.panel_rows);
  shares.add(gate);
  auto piece = [&](int64_t i, int thread) {
    Team::OfThread& own = team_->of_thread[static_cast<size_t>(thread)];
    float* gates = own.gate.get<float>(in.tokens * step);
    float* ups = own.up.get<float>(in.tokens * step);
    shares.each(i, [&](int, int64_t first, int64_t last) {
      for (int64_t begin = first; begin < last; begin += step) {
        const int64_t end = std::min(begin + step, last);
        multiply(in, prepared, gate, begin, end, thread, gates, step, begin, nullptr);
        multiply(in, prepared, up, begin, end, thread, ups, step, begin, nullptr);
        for (int64_t t = 0; t < in.tokens; t++)
          kernels_.geglu(gates + t * step, ups + t * step, end - begin, y + t * gate.rows + begin);
      }
    });
  };
  team_->pool.for_runs(shares.cut(in.tokens, threads_), piece);
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
  team.split(tokens, tokens * heads * head_dim, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; t++) {
      const float* cosine = table + (position - start + t) * per_token;
      kernels_.rope(x + t * heads * head_dim, cosine, cosine + half, heads, head_dim);
    }
  });
}

void Context::attention(const AttentionArgs& args) {
  std::lock_guard<std::mutex> lock(team_->mutex);
  Team& team = *team_;
  const int64_t group = args.heads / args.kv_heads, rows = args.tokens * group, dim = args.head_dim;
  const int64_t tiles = divide_up(rows, kQueryTile), stride = kernels_.partial_floats(dim);
  const int64_t tile_floats = std::min(rows, kQueryTile) * stride;
  const auto rows_of = [&](int64_t tile) { return std::min(kQueryTile, rows - tile * kQueryTile); };
  // Segments that the last row of a tile sees; to a row that sees less they make no difference.
  const auto segments_of = [&](int64_t tile) {
    const int64_t last = tile * kQueryTile + rows_of(tile) - 1;
    return divide_up(args.position + last / group + 1, kSegment);
  };
  const auto join_rows = [&](int64_t count) {
    return [this, count, stride, dim](float* older, const float* newer) {
      for (int64_t r = 0; r < count; r++) kernels_.join(dim, newer + r * stride, older + r * stride);
    };
  };
  // Segments [begin, end) for the rows of a tile, added to a tree whose states lie in `space`.
  const auto add_segments = [&](int64_t kv_head, int64_t tile, int64_t begin, int64_t end, int thread,
                                float* space, SegmentTree& tree) {
    for (int64_t segment = begin; segment < end; segment++) {
      float* states = space + tree.count() * tile_floats;
      attend_on(args, kv_head, tile * kQueryTile, rows_of(tile), segment, thread, states);
      tree.add({segment, 1, states}, join_rows(rows_of(tile)));
    }
  };
  const auto conclude = [&](int64_t kv_head, int64_t first, int64_t count, SegmentTree& tree) {
    const float* states = tree.joined(join_rows(count));
    for (int64_t row = first; row < first + count; row++, states += stride) {
      const int64_t at = row / group * args.heads + kv_head * group + row % group;
      kernels_.conclude(dim, states, args.out + at * dim);
    }
  };
  const int64_t all = args.kv_heads * tiles, longest = segments_of(tiles - 1);
  const int64_t tree_floats = most_nodes(longest) * tile_floats;
  if (2 * all > threads_) {  // enough tiles for everybody: each goes through its segments
    float* space = team.states.get<float>(threads_ * tree_floats);
    auto one = [&](int64_t i, int thread) {
      const int64_t kv_head = i / tiles, tile = tiles - 1 - i % tiles;  // long ones first
      SegmentTree tree;
      add_segments(kv_head, tile, 0, segments_of(tile), thread, space + thread * tree_floats, tree);
      conclude(kv_head, tile * kQueryTile, rows_of(tile), tree);
    };
    const bool small = args.kv_heads * rows * (args.position + args.tokens) * dim < kSmallWork;
    for (int64_t i = 0; small && i < all; i++) one(i, 0);
    if (!small) team.pool.for_each(all, one);
    return;
  }
  // Few tiles: their segments are shared out, and joined when all are done. Neighbouring ones to one thread:
  // it asks for the next keys while it is at the last ones of a segment, and hands on few states.
  const int64_t pieces = args.kv_heads * rows * longest * kSegment * dim < kSmallWork
                             ? 1
                             : std::min(threads_ * kPiecesPerThread, longest);
  float* space = team.states.get<float>(all * pieces * tree_floats);
  team.trees.assign(static_cast<size_t>(all * pieces), {});
  auto piece = [&](int64_t i, int thread) {
    const int64_t kv_head = i / pieces / tiles, tile = i / pieces % tiles, p = i % pieces;
    const int64_t n = segments_of(tile);
    add_segments(kv_head, tile, n * p / pieces, n * (p + 1) / pieces, thread, space + i * tree_floats,
                 team.trees[static_cast<size_t>(i)]);
  };
  team.pool.for_runs(all * pieces, piece);
  for (int64_t i = 0; i < all; i++) {
    SegmentTree tree;
    for (int64_t p = 0; p < pieces; p++) {
      const SegmentTree& part = team.trees[static_cast<size_t>(i * pieces + p)];
      for (int k = 0; k < part.count(); k++) tree.add(part[k], join_rows(rows_of(i % tiles)));
    }
    conclude(i / tiles, i % tiles * kQueryTile, rows_of(i % tiles), tree);
  }
}

void Context::attend_on(const AttentionArgs& args, int64_t kv_head, int64_t first, int64_t count,
                        int64_t segment, int thread, float* states) {
  Scratch& own = team_->of_thread[static_cast<size_t>(thread)].attention;
  float* scratch = own.get<float>(kernels_.attention_floats(args.head_dim));
  kernels_.attend(args, kv_head, first, count, segment, scratch, states);
}

}  // namespace cg
