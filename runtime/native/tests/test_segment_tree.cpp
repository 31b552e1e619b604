// However neighbouring segments are shared out, they are joined in the same order.

#include "check.h"
#include "segment_tree.h"

namespace {

// Not associative, not commutative, and nothing makes no difference.
constexpr float kNothing = -1.0f;
void join(float* older, const float* newer) {
  if (*newer != kNothing) *older = std::fmod(*older * 3.0f + *newer * 5.0f + 1.0f, 8191.0f);
}

// The segments [begin, end) added to a tree, as far as `seen`; their states lie in `space`.
cg::SegmentTree tree_of(int64_t begin, int64_t end, int64_t seen, std::vector<float>& space) {
  cg::SegmentTree tree;
  for (int64_t s = begin; s < end; s++) {
    float* state = &space[static_cast<size_t>(tree.count())];
    *state = s < seen ? static_cast<float>(s) : kNothing;
    tree.add({s, 1, state}, join);
    CHECK(tree.count() < cg::most_nodes(end - begin), "%d nodes of %lld", tree.count(),
          (long long)(end - begin));
  }
  return tree;
}

float alone(int64_t n) {
  std::vector<float> space(static_cast<size_t>(cg::most_nodes(n)));
  return *tree_of(0, n, n, space).joined(join);
}

}  // namespace

int main() {
  for (int64_t n = 1; n <= 70; n++) {
    const float expected = alone(n);
    for (int64_t pieces = 1; pieces <= n; pieces++) {
      std::vector<std::vector<float>> spaces(static_cast<size_t>(pieces));
      cg::SegmentTree whole;
      for (int64_t p = 0; p < pieces; p++) {
        std::vector<float>& space = spaces[static_cast<size_t>(p)];
        space.resize(static_cast<size_t>(cg::most_nodes((n + pieces - 1) / pieces)));
        const cg::SegmentTree part = tree_of(n * p / pieces, n * (p + 1) / pieces, n, space);
        for (int i = 0; i < part.count(); i++) whole.add(part[i], join);
      }
      CHECK(*whole.joined(join) == expected, "%lld segments in %lld pieces", (long long)n, (long long)pieces);
    }
    std::vector<float> space(static_cast<size_t>(cg::most_nodes(n + 9)));
    for (int64_t more = 1; more < 9; more++) {
      CHECK(*tree_of(0, n + more, n, space).joined(join) == expected, "%lld segments and %lld unseen",
            (long long)n, (long long)more);
    }
  }
  // The order itself: ((0 + 1) + (2 + 3)) + 4.
  float a = 0, b = 2;
  const float one = 1, three = 3, four = 4;
  join(&a, &one);
  join(&b, &three);
  join(&a, &b);
  join(&a, &four);
  CHECK(alone(5) == a, "%g, not %g", alone(5), a);
  return test::report();
}
