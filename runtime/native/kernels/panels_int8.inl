// Products of many tokens with int8 activations. A panel of rows is unpacked to bytes once, four columns of a
// row after those of the row before, and stays in the cache while all tokens pass: a vector of weights times
// four broadcast activations adds to the sums of kWideLanes rows.

namespace cg {
namespace {

constexpr int64_t kPanelRows = kWideLanes * kPanelVectors;
constexpr int64_t kStep = kPanelRows * 4;             // bytes of four columns
constexpr int64_t kPanelBlock = kPanelRows * kBlock;  // bytes of a block of columns
constexpr int64_t kLevels = 3;                        // partial sums that the tree of segments keeps
constexpr int64_t kWholePanel = 4096 / kBlock;        // more blocks than this go segment by segment

// What a panel holds at a time, in scratch memory.
struct Int8Panel {
  uint8_t* bytes;  // [blocks, 8, kPanelRows, 4]
  float* scales;   // [blocks, kPanelRows]
  float* levels;   // [kLevels, tokens, kPanelRows], when segments come one by one
};

// The most blocks that are unpacked at a time.
CG_INLINE int64_t panel_blocks(int64_t blocks) {
  return blocks <= kWholePanel ? blocks : (blocks + kBlockGroup - 1) / kBlockGroup;
}

int64_t int8_scratch_bytes(int64_t cols, int64_t tokens) {
  const int64_t blocks = cols / kBlock;
  const int64_t levels = blocks <= kWholePanel ? 0 : kLevels * tokens;
  return panel_blocks(blocks) * kPanelBlock + (panel_blocks(blocks) + levels) * kPanelRows * 4;
}

// Four rows of a stored block to their places in the panel.
template <Format format>
CG_INLINE void unpack_four(const uint8_t* const rows[4], uint8_t* out) {
  for (int half = 0; half < 2; half++) {
    Bytes16 v[4];
    for (int r = 0; r < 4; r++) {
      if constexpr (format == Format::q4) {
        v[r] = half == 0 ? low_nibbles(load_16(rows[r])) : high_nibbles(load_16(rows[r]));
      } else {
        v[r] = to_panel_i8(load_16(rows[r] + 16 * half));
      }
    }
    transpose_words(v);
    for (int i = 0; i < 4; i++) store_16(out + (half * 4 + i) * kStep, v[i]);
  }
}

// Segments [first, last) of rows [row, row + count) to the panel; rows that are missing count as zero.
template <Format format>
void unpack_panel(const Matrix& weight, int64_t row, int64_t count, const PanelOrder& order, int first,
                  int last, const Int8Panel& panel) {
  static const uint8_t nothing[kBlock] = {};
  const int64_t blocks = weight.cols / kBlock, block_bytes = bytes_of(format, kBlock);
  const int64_t row_bytes = blocks * block_bytes, start = order.start[first];
  for (int64_t r = 0; r < kPanelRows; r += 4) {
    for (int64_t b = 0; b < blocks; b++) {
      const int segment = order.segment[b % kBlockGroup];
      if (segment < first || segment >= last) continue;
      const int64_t at = order.position(b) - start;
      const uint8_t* rows[4];
      for (int i = 0; i < 4; i++) {
        const bool there = r + i < count;
        rows[i] = there ? weight.data + (row + r + i) * row_bytes + b * block_bytes : nothing;
        panel.scales[at * kPanelRows + r + i] =
            there ? scale_at(weight.scales, (row + r + i) * blocks + b) : 0.0f;
      }
      unpack_four<format>(rows, panel.bytes + at * kPanelBlock + r * 4);
    }
  }
}

// Where a tile of T tokens keeps its partial sums: [T, kPanelRows] per level.
struct Levels {
  float* base;
  int64_t stride;  // from level to level
  CG_MEMBER float* at(int level, int64_t vector) const { return base + level * stride + vector * kWideLanes; }
};

// The sums of a segment into the tree; true when they are complete.
CG_INLINE bool join(int segment, const Levels& levels, int64_t vector, W& sums) {
  const auto level = [&](int i) { return load_wide(levels.at(i, vector)); };
  switch (segment) {
    case 0: store(levels.at(0, vector), sums); return false;
    case 1: store(levels.at(0, vector), add(level(0), sums)); return false;
    case 2: store(levels.at(1, vector), sums); return false;
    case 3: store(levels.at(0, vector), add(level(0), add(level(1), sums))); return false;
    case 4: store(levels.at(1, vector), sums); return false;
    case 5: store(levels.at(1, vector), add(level(1), sums)); return false;
    case 6: store(levels.at(2, vector), sums); return false;
    default: sums = add(level(0), add(level(1), add(level(2), sums))); return true;
  }
}

// Segments [first, last) of T tokens with the panel.
template <Format format, int T>
void panel_tile(const ProductArgs& args, const Int8Panel& panel, const PanelOrder& order, int first, int last,
                int64_t token, int64_t row, int64_t count) {
  const QuantizedTokens& q = args.quantized;
  float own[kLevels * T * kPanelRows];
  const bool whole = first == 0 && last == kBlockGroup;
  const Levels levels = whole ? Levels{own, T * kPanelRows}
                              : Levels{panel.levels + token * kPanelRows, args.tokens * kPanelRows};
  const int64_t start = order.start[first];
  for (int s = first; s < last; s++) {
    W sums[T * kPanelVectors];
    for (W& v : sums) v = wide_zero();
    for (int64_t b = order.start[s]; b < order.start[s + 1]; b++) {
      const uint8_t* w = panel.bytes + (b - start) * kPanelBlock;
      const int64_t at = token * q.blocks + b;
      Dots<format> dots[T * kPanelVectors];
      for (int t = 0; t < T; t++) {
        for (int p = 0; p < kPanelVectors; p++)
          dots[t * kPanelVectors + p].start(q.offsets[at + t * q.blocks]);
      }
      CG_UNROLL_8
      for (int step = 0; step < 8; step++) {
        WideBytes weights[kPanelVectors];
        for (int p = 0; p < kPanelVectors; p++)
          weights[p] = load_wide_bytes(w + step * kStep + p * kWideLanes * 4);
        for (int t = 0; t < T; t++) {
          const WideBytes x = broadcast_4(q.values + (at + t * q.blocks) * kBlock + step * 4);
          for (int p = 0; p < kPanelVectors; p++) dots[t * kPanelVectors + p].add(weights[p], x);
        }
      }
      for (int p = 0; p < kPanelVectors; p++) {
        const W w_scale = load_wide(panel.scales + (b - start) * kPanelRows + p * kWideLanes);
        for (int t = 0; t < T; t++) {
          const W products = dots[t * kPanelVectors + p].finish(q.offsets[at + t * q.blocks]);
          W& sum = sums[t * kPanelVectors + p];
          sum = fma(mul(products, w_scale), wide_set1(q.scales[at + t * q.blocks]), sum);
        }
      }
    }
    for (int i = 0; i < T * kPanelVectors; i++) {
      if (!join(s, levels, i, sums[i])) continue;
      const int64_t r = i % kPanelVectors * kWideLanes,
                    at = place_of(args, token + i / kPanelVectors, row + r);
      if (r + kWideLanes <= count) {
        store(args.y + at, args.residual != nullptr ? add(load_wide(args.residual + at), sums[i]) : sums[i]);
      } else {
        float last_rows[kWideLanes];
        store(last_rows, sums[i]);
        for (int64_t k = 0; r + k < count; k++)
          finish(args, token + i / kPanelVectors, row + r + k, last_rows[k]);
      }
    }
  }
}

template <Format format, int T>
CG_INLINE int64_t panel_tiles(const ProductArgs& args, const Int8Panel& panel, const PanelOrder& order,
                              int first, int last, int64_t token, int64_t row, int64_t count) {
  for (; token + T <= args.tokens; token += T)
    panel_tile<format, T>(args, panel, order, first, last, token, row, count);
  return token;
}

template <Format format>
void panels_int8(const ProductArgs& args, int64_t begin, int64_t end) {
  const int64_t blocks = args.weight.cols / kBlock, room = panel_blocks(blocks);
  const PanelOrder order(lane_order(format), blocks);
  Int8Panel panel;
  panel.bytes = static_cast<uint8_t*>(args.scratch);
  panel.scales = reinterpret_cast<float*>(panel.bytes + room * kPanelBlock);
  panel.levels = panel.scales + room * kPanelRows;
  const int segments = blocks <= kWholePanel ? kBlockGroup : 1;  // at a time
  for (int64_t row = begin; row < end; row += kPanelRows) {
    const int64_t count = row + kPanelRows < end ? kPanelRows : end - row;
    for (int first = 0; first < kBlockGroup; first += segments) {
      const int last = first + segments;
      unpack_panel<format>(args.weight, row, count, order, first, last, panel);
      int64_t token = panel_tiles<format, kPanelTokens>(args, panel, order, first, last, 0, row, count);
      token = panel_tiles<format, (kPanelTokens + 1) / 2>(args, panel, order, first, last, token, row, count);
      token = panel_tiles<format, 2>(args, panel, order, first, last, token, row, count);
      panel_tiles<format, 1>(args, panel, order, first, last, token, row, count);
    }
  }
}

}  // namespace
}  // namespace cg
