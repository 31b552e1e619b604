// A context's threads and their scratch memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "context.h"
#include "segment_tree.h"
#include "shares.h"

namespace cg {

using Lock = std::lock_guard<std::recursive_mutex>;

// Pieces per thread of what is not a product: enough to even out cores of unequal speed.
constexpr int64_t kPiecesPerThread = 4;

struct Context::Team {
  explicit Team(int threads) : pool(threads), of_thread(static_cast<size_t>(threads)) {}

  struct OfThread {
    Scratch rows, gate, up, panel, attention;
  };

  std::recursive_mutex mutex;  // a layer holds it for all of its operations
  ThreadPool pool;
  std::vector<OfThread> of_thread;
  Scratch floats, quantized[kElementFormats], states, angles;
  Scratch queries, keys, values, mixed, inner;  // of a layer
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

}  // namespace cg
