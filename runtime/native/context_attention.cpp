// Operations that need no weights: rotation and attention.

#include <algorithm>
#include <cmath>

#include "context.h"
#include "segment_tree.h"
#include "team.h"

namespace cg {

void Context::rope(float* x, int64_t tokens, int64_t heads, int64_t head_dim, int64_t position,
                   double theta) {
  Lock lock(team_->mutex);
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
  Lock lock(team_->mutex);
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
  if (2 * all > threads_) {  // enough tiles for everybody: each goes through its segments
    const int64_t tree_floats = most_nodes(longest) * tile_floats;
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
  const bool small = args.kv_heads * rows * longest * kSegment * dim < kSmallWork;
  const int64_t pieces = small ? 1 : std::min(divide_up(threads_ * kPiecesPerThread, all), longest);
  const int64_t tree_floats = most_nodes(divide_up(longest, pieces)) * tile_floats;
  float* space = team.states.get<float>(all * pieces * tree_floats);
  team.trees.resize(static_cast<size_t>(all * pieces));
  auto piece = [&](int64_t i, int thread) {
    const int64_t kv_head = i / pieces / tiles, tile = i / pieces % tiles, p = i % pieces;
    const int64_t n = segments_of(tile);
    SegmentTree& tree = team.trees[static_cast<size_t>(i)];
    tree.clear();
    add_segments(kv_head, tile, n * p / pieces, n * (p + 1) / pieces, thread, space + i * tree_floats, tree);
  };
  team.pool.for_runs(all * pieces, piece);
  auto finish = [&](int64_t i, int) {
    const int64_t count = rows_of(i % tiles);
    SegmentTree tree;
    for (int64_t p = 0; p < pieces; p++) {
      const SegmentTree& part = team.trees[static_cast<size_t>(i * pieces + p)];
      for (int k = 0; k < part.count(); k++) tree.add(part[k], join_rows(count));
    }
    conclude(i / tiles, i % tiles * kQueryTile, count, tree);
  };
  team.pool.for_each(all, finish);
}

void Context::attend_on(const AttentionArgs& args, int64_t kv_head, int64_t first, int64_t count,
                        int64_t segment, int thread, float* states) {
  Scratch& own = team_->of_thread[static_cast<size_t>(thread)].attention;
  float* scratch = own.get<float>(kernels_.attention_floats(args.head_dim));
  kernels_.attend(args, kv_head, first, count, segment, scratch, states);
}

}  // namespace cg
