// The order in which attention joins the segments of the key-value cache: a binary tree over their numbers,
// of which any thread can compute any part. So the result is the same however the segments are shared out.
#pragma once

#include <cstdint>

namespace cg {

// Most nodes of so many neighbouring segments, with one that is to be added.
constexpr int most_nodes(int64_t segments) { return segments > 1 ? 2 + most_nodes(segments / 2) : 3; }

// Neighbouring segments joined to a tree as far as they make complete nodes: `size` segments, a power of two,
// from a multiple of `size` on. That is the order of a binary counter: whoever adds segments one by one, and
// joins what is left from the last to the first, gets the same as several who each add a part and then add
// their nodes.
class SegmentTree {
 public:
  struct Node {
    int64_t begin, size;  // segments
    float* state;
  };

  int count() const { return count_; }
  void clear() { count_ = 0; }
  const Node& operator[](int i) const { return nodes_[i]; }

  // Adds what follows all others; join(older, newer) joins two states into the older one's place.
  template <class Join>
  void add(const Node& node, const Join& join) {
    nodes_[count_++] = node;
    while (count_ > 1 && nodes_[count_ - 2].size == nodes_[count_ - 1].size &&
           nodes_[count_ - 2].begin % (2 * nodes_[count_ - 1].size) == 0) {
      nodes_[count_ - 2].size *= 2;
      join_last(join);
    }
  }

  // The state of all together; nothing can be added afterwards.
  template <class Join>
  float* joined(const Join& join) {
    while (count_ > 1) join_last(join);
    return nodes_[0].state;
  }

 private:
  template <class Join>
  void join_last(const Join& join) {
    join(nodes_[count_ - 2].state, nodes_[count_ - 1].state);
    count_--;
  }

  Node nodes_[most_nodes(INT64_MAX)];
  int count_ = 0;
};

}  // namespace cg
