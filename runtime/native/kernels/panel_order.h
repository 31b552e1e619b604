// In which order a panel product adds up the blocks of a row. A row product adds them in eight lanes, block b
// in a lane of its position in its group of eight, and the lanes as a tree at the end. A panel product goes
// lane by lane, in the tree's order, so that both give the same sums to the bit.
#pragma once

#include "kernels/kernels.h"

namespace cg {
namespace {

// The order in which sum(F) joins its lanes: ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7)).
constexpr int kTree[kBlockGroup] = {0, 4, 2, 6, 1, 5, 3, 7};

// Blocks of a row in segments, one per lane; `order` says which block of a group a lane has.
struct PanelOrder {
  int64_t start[kBlockGroup + 1];  // positions at which segments begin
  int segment[kBlockGroup];        // of a block by its place in its group

  PanelOrder(const int* order, int64_t blocks) {
    start[0] = 0;
    for (int s = 0; s < kBlockGroup; s++) {
      const int place = order[kTree[s]];
      segment[place] = s;
      start[s + 1] = start[s] + (blocks - place + kBlockGroup - 1) / kBlockGroup;
    }
  }

  int64_t position(int64_t block) const { return start[segment[block % kBlockGroup]] + block / kBlockGroup; }
};

}  // namespace
}  // namespace cg
