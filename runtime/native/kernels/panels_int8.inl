// Products of many tokens with int8 activations. A panel of rows is unpacked to bytes once, four columns of a
// row after those of the row before, and stays in the cache while all tokens pass: a vector of weights times
// four broadcast activations adds to the sums of kWideLanes rows.

namespace cg {
namespace {

constexpr int64_t kStep = kPanelRows * 4;             // bytes of four columns
constexpr int64_t kPanelBlock = kPanelRows * kBlock;  // bytes of a block of columns
constexpr int64_t kLongPanels = 2;                    // that share a pass over the activations
constexpr int64_t kMorePanels = 4;                    // that do if they are short
constexpr int64_t kShortPanel = 2048 / kBlock;        // in blocks
constexpr int64_t kWholePanel = 4096 / kBlock;        // longer ones are used segment by segment
constexpr int64_t kLevels = 3;                        // partial sums that the tree of segments keeps
constexpr int64_t kTokenRun = 128;                    // whose partial sums wait for the next segment

// A panel in scratch memory.
struct Int8Panel {
  int64_t row, count;  // the matrix's rows that it holds
  uint8_t* bytes;      // [blocks, 8, kPanelRows, 4]
  float* scales;       // [blocks, kPanelRows]
  float* levels;       // [kLevels, kTokenRun, kPanelRows], when segments come one by one
};

CG_INLINE int64_t panels_together(int64_t blocks) {
  return blocks <= kShortPanel ? kMorePanels : kLongPanels;
}

CG_INLINE int64_t int8_panel_bytes(int64_t blocks) {
  const int64_t levels = blocks <= kWholePanel ? 0 : kLevels * kTokenRun;
  return blocks * kPanelBlock + (blocks + levels) * kPanelRows * 4;
}

int64_t int8_scratch_bytes(int64_t cols, int64_t) {
  return panels_together(cols / kBlock) * int8_panel_bytes(cols / kBlock);
}

// 32 stored bytes of four rows to their places in the panel: two blocks of Q4, or one of I8.
template <Format format>
CG_INLINE void unpack_four(const uint8_t* const rows[4], int64_t offset, uint8_t* first, uint8_t* second) {
  Bytes32 stored[4], v[4];
  for (int r = 0; r < 4; r++) stored[r] = load_32(rows[r] + offset);
  if constexpr (elements_of(format) == Format::q4) {
    for (int r = 0; r < 4; r++) v[r] = low_nibbles(stored[r]);
    transpose_words(v);
    for (int i = 0; i < 4; i++) store_halves(first + i * kStep, second + i * kStep, v[i]);
    for (int r = 0; r < 4; r++) v[r] = high_nibbles(stored[r]);
    first += 4 * kStep;
    second += 4 * kStep;
  } else {
    for (int r = 0; r < 4; r++) v[r] = to_panel_i8(stored[r]);
  }
  transpose_words(v);
  for (int i = 0; i < 4; i++) store_halves(first + i * kStep, second + i * kStep, v[i]);
}

// `count` blocks of four rows, at most four. Of an odd number of Q4 blocks the last one is copied first:
// nothing past the row's end is read.
template <Format format>
CG_INLINE void unpack_blocks(const uint8_t* const rows[4], int64_t block, int64_t count,
                             const int64_t* places, uint8_t* out) {
  if constexpr (elements_of(format) == Format::q4) {
    for (int64_t i = 0; i + 2 <= count; i += 2) {
      unpack_four<format>(rows, bytes_of(format, (block + i) * kBlock), out + places[i] * kPanelBlock,
                          out + places[i + 1] * kPanelBlock);
    }
    if (count % 2 == 0) return;
    uint8_t rest[4][32] = {}, unused[kPanelBlock];
    const uint8_t* copies[4];
    for (int r = 0; r < 4; r++) {
      memcpy(rest[r], rows[r] + bytes_of(format, (block + count - 1) * kBlock), 16);
      copies[r] = rest[r];
    }
    unpack_four<format>(copies, 0, out + places[count - 1] * kPanelBlock, unused);
  } else {
    for (int64_t i = 0; i < count; i++) {
      uint8_t* first = out + places[i] * kPanelBlock;
      unpack_four<format>(rows, (block + i) * kBlock, first, first + 4 * kStep);
    }
  }
}

// The scales of four neighbours among a row's `blocks` >= kLanes blocks, as floats.
template <Format format>
CG_INLINE Bytes16 four_scales(const uint8_t* row, int64_t block, int64_t blocks) {
  if constexpr (format == Format::q4h) {
    const int64_t first = block + kLanes <= blocks ? block : blocks - kLanes;  // nothing past the row's end
    float scales[kLanes];
    store(scales, load_scales<format>(row + first * scale_bytes(format)));
    return load_16((const uint8_t*)(scales + block - first));
  } else {
    return load_16(row + block * scale_bytes(format));
  }
}

// The scales of four blocks of four rows.
template <Format format>
CG_INLINE void unpack_scales(const uint8_t* const rows[4], int64_t blocks, int64_t block, int64_t count,
                             const int64_t* places, float* out) {
  if (count == 4 && blocks >= kLanes) {
    Bytes16 v[4];
    for (int r = 0; r < 4; r++) v[r] = four_scales<format>(rows[r], block, blocks);
    transpose_words(v);
    for (int i = 0; i < 4; i++) store_16((uint8_t*)(out + places[i] * kPanelRows), v[i]);
  } else {
    for (int64_t i = 0; i < count; i++) {
      for (int r = 0; r < 4; r++) {
        float scale[kLanes];
        store(scale, scale_of<format>(rows[r], block + i));
        out[places[i] * kPanelRows + r] = scale[0];
      }
    }
  }
}

// A panel's rows; the last one stands in for those that are missing.
template <Format format>
void unpack_panel(const Matrix& weight, const PanelOrder& order, const Int8Panel& panel) {
  constexpr int64_t kLine = elements_of(format) == Format::q4 ? 4 : 2;  // blocks in a cache line
  const int64_t blocks = weight.cols / kBlock, block_bytes = bytes_of(format, kBlock);
  const int64_t row_bytes = blocks * block_bytes, row_scales = blocks * scale_bytes(format);
  // A line of every row before the next one, so that what is written stays in the first cache.
  for (int64_t first = 0; first < blocks; first += 4) {
    const int64_t count = blocks - first < 4 ? blocks - first : 4;
    int64_t places[4] = {};
    for (int64_t i = 0; i < count; i++) places[i] = order.position(first + i);
    for (int64_t r = 0; r < kPanelRows; r += 4) {
      const uint8_t* data[4];
      const uint8_t* scales[4];
      for (int i = 0; i < 4; i++) {
        const int64_t row = panel.row + (r + i < panel.count ? r + i : panel.count - 1);
        data[i] = weight.data + row * row_bytes;
        scales[i] = weight.scales + row * row_scales;
        for (int64_t b = 0; b < 4; b += kLine)  // the next panel's
          prefetch_far(data[i] + (first + b) * block_bytes + kPanelRows * row_bytes);
        if (first % 16 == 0) prefetch_far(scales[i] + first * scale_bytes(format) + kPanelRows * row_scales);
      }
      unpack_scales<format>(scales, blocks, first, count, places, panel.scales + r);
      unpack_blocks<format>(data, first, count, places, panel.bytes + r * 4);
    }
  }
}

// Where a tile of T tokens keeps its partial sums: [T, kPanelRows] per level.
struct Levels {
  float* base;
  int64_t stride;  // from level to level
  CG_MEMBER float* at(int level, int64_t vector) const { return base + level * stride + vector * kWideLanes; }
};

// The sums of a segment of a tile into the tree, which is a binary counter: as many levels as the segment's
// number ends in ones are full and join. True when that was all of them.
template <int T>
CG_INLINE bool join(int segment, const Levels& levels, W* sums) {
  int level = (segment & 1) + (segment >> 1 & 1) + (segment >> 2 & 1);  // full ones
  for (int ones = segment; ones & 1; ones >>= 1) {
    level--;
    for (int i = 0; i < T * kPanelVectors; i++) sums[i] = add(load_wide(levels.at(level, i)), sums[i]);
  }
  if (segment == kBlockGroup - 1) return true;
  for (int i = 0; i < T * kPanelVectors; i++) store(levels.at(level, i), sums[i]);
  return false;
}

// Segments [first, last) of T tokens, neighbours in the layout, with the panel.
template <Format format, int T>
void panel_tile(const ProductArgs& args, const Int8Panel& panel, const PanelOrder& order, int first, int last,
                int64_t token) {
  const int64_t blocks = args.weight.cols / kBlock, place = token % kPanelTokens;
  const TokenBlock* tile =
      static_cast<const TokenBlock*>(args.quantized.data) + token / kPanelTokens * blocks;
  float own[kLevels * T * kPanelRows];
  const bool whole = first == 0 && last == kBlockGroup;
  const Levels levels = whole ? Levels{own, T * kPanelRows}
                              : Levels{panel.levels + token % kTokenRun * kPanelRows, kTokenRun * kPanelRows};
  for (int s = first; s < last; s++) {
    W sums[T * kPanelVectors];
    for (W& v : sums) v = wide_zero();
    const uint8_t* w = panel.bytes + order.start[s] * kPanelBlock;
    const float* w_scales = panel.scales + order.start[s] * kPanelRows;
    for (int64_t b = order.start[s]; b < order.start[s + 1]; b++) {
      const int8_t* x = tile[b].values + place * 4;
      const float* x_scales = tile[b].scales + place;
      const int32_t* offsets = tile[b].offsets + place;
      Dots<format> dots[T * kPanelVectors];
      for (int t = 0; t < T; t++) {
        for (int p = 0; p < kPanelVectors; p++) dots[t * kPanelVectors + p].start(offsets[t]);
      }
      CG_UNROLL_8
      for (int step = 0; step < 8; step++) {
        WideBytes weights[kPanelVectors];
        for (int p = 0; p < kPanelVectors; p++)
          weights[p] = load_wide_bytes(w + step * kStep + p * kWideLanes * 4);
        for (int t = 0; t < T; t++) {
          const auto four = broadcast_4<T>(x + step * kPanelTokens * 4, t);
          for (int p = 0; p < kPanelVectors; p++) dots[t * kPanelVectors + p].add(weights[p], four);
        }
      }
      for (int p = 0; p < kPanelVectors; p++) {
        const W w_scale = load_wide(w_scales + p * kWideLanes);
        for (int t = 0; t < T; t++) {
          W& sum = sums[t * kPanelVectors + p];
          const W products = dots[t * kPanelVectors + p].finish(offsets[t]);
          sum = fma(mul(products, w_scale), wide_set1(x_scales[t]), sum);
        }
      }
      w += kPanelBlock;
      w_scales += kPanelRows;
    }
    if (!join<T>(s, levels, sums)) continue;
    for (int i = 0; i < T * kPanelVectors; i++) put(args, panel.row, panel.count, token, i, sums[i]);
  }
}

// Tokens [token, end), as many at a time as they come.
template <Format format, int T>
void panel_tiles(const ProductArgs& args, const Int8Panel* panels, int64_t count, const PanelOrder& order,
                 int first, int last, int64_t token, int64_t end) {
  if constexpr (T > 0) {
    for (; token + T <= end; token += T) {
      for (int64_t i = 0; i < count; i++) panel_tile<format, T>(args, panels[i], order, first, last, token);
    }
    panel_tiles<format, T / 2>(args, panels, count, order, first, last, token, end);
  }
}

template <Format format>
void panels_int8(const ProductArgs& args, int64_t begin, int64_t end) {
  const int64_t blocks = args.weight.cols / kBlock, together = panels_together(blocks);
  const PanelOrder order(lane_order(format), blocks);
  const int segments = blocks <= kWholePanel ? kBlockGroup : 1;  // at a time
  for (int64_t row = begin; row < end; row += together * kPanelRows) {
    Int8Panel panels[kMorePanels];
    int64_t count = 0;
    for (int64_t r = row; count < together && r < end; r += kPanelRows) {
      Int8Panel& panel = panels[count];
      panel.row = r;
      panel.count = r + kPanelRows < end ? kPanelRows : end - r;
      panel.bytes = static_cast<uint8_t*>(args.scratch) + count * int8_panel_bytes(blocks);
      panel.scales = reinterpret_cast<float*>(panel.bytes + blocks * kPanelBlock);
      panel.levels = panel.scales + blocks * kPanelRows;
      unpack_panel<format>(args.weight, order, panel);
      count++;
    }
    for (int64_t token = 0; token < args.tokens; token += kTokenRun) {
      const int64_t stop = token + kTokenRun < args.tokens ? token + kTokenRun : args.tokens;
      for (int first = 0; first < kBlockGroup; first += segments) {
        const int last = first + segments;
        panel_tiles<elements_of(format), kPanelTokens>(args, panels, count, order, first, last, token, stop);
      }
    }
  }
}

}  // namespace
}  // namespace cg
