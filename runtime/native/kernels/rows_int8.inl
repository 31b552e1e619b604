// Products of a few tokens with int8 activations, straight from the stored layout: every byte of the weights
// is loaded once. The products of a block are exact integers; blocks add up in f32, in eight lanes.

namespace cg {
namespace {

// Long rows are taken in pieces, a tile of rows at a time, so that the activations of a piece stay in the
// first cache: as many groups times tokens as that.
constexpr int64_t kPieceGroups = 48;
constexpr int64_t kWholeGroups = 64;
constexpr int64_t kTileRows = 16;
constexpr int kRowTokens = 8;
constexpr int64_t kLead = kPrefetchBytes / 128;  // groups of Q4

// Eight blocks with T tokens.
template <Format format, int T>
CG_INLINE void add_group(const uint8_t* w, const uint8_t* w_scales, const QuantizedTokens& q, int64_t token,
                         int64_t block, F* sums) {
  const auto group = load_group<elements_of(format)>(w);
  const F w_scale = in_lane_order<elements_of(format)>(load_scales<format>(w_scales));
  for (int t = 0; t < T; t++) {
    const int64_t at = (token + t) * q.blocks + block;
    const I products = add(dot(group, q.values + at * kBlock), load_ints(q.offsets + at));
    sums[t] = fma(mul(to_float(products), w_scale), load(q.scales + at), sums[t]);
  }
}

// The blocks from `begin` on, less than a group, from a padded copy: nothing past the row's end is read.
template <Format format, int T>
CG_INLINE void add_rest(const ProductArgs& args, int64_t row, int64_t token, int64_t begin, F* sums) {
  constexpr int64_t kScale = scale_bytes(format);
  const int64_t blocks = args.weight.cols / kBlock, at = row * blocks + begin;
  uint8_t rest[kBlockGroup * kBlock] = {}, rest_scales[kBlockGroup * kScale] = {};
  memcpy(rest, args.weight.data + bytes_of(format, at * kBlock),
         (size_t)bytes_of(format, (blocks - begin) * kBlock));
  memcpy(rest_scales, args.weight.scales + at * kScale, (size_t)((blocks - begin) * kScale));
  add_group<format, T>(rest, rest_scales, args.quantized, token, begin, sums);
}

// A row's groups [first, last); after group `last - lead` weights are asked for from `next` on.
template <Format format, int T>
CG_INLINE void add_groups(const ProductArgs& args, int64_t row, int64_t token, int64_t first, int64_t last,
                          int64_t lead, int64_t next, F* sums) {
  constexpr int64_t kScale = scale_bytes(format), kGroupScales = kBlockGroup * kScale;
  constexpr int64_t kGroupBytes = kBlockGroup * bytes_of(format, kBlock);
  const int64_t groups = row * (args.weight.cols / kBlock);  // in blocks: rows need not be whole groups
  const uint8_t* data = args.weight.data + groups * bytes_of(format, kBlock);
  const uint8_t* scales = args.weight.scales + groups * kScale;
  for (int64_t g = first; g < last; g++) {
    const int64_t blocks =
        g + lead < last ? (g + lead) * kBlockGroup : next + (g + lead - last) * kBlockGroup;
    for (int64_t line = 0; line < kGroupBytes; line += 64)
      prefetch_far(data + bytes_of(format, blocks * kBlock) + line);
    prefetch_far(scales + blocks * kScale);
    add_group<format, T>(data + g * kGroupBytes, scales + g * kGroupScales, args.quantized, token,
                         g * kBlockGroup, sums);
  }
}

// Rows [begin, end), at most kTileRows, with T tokens.
template <Format format, int T>
CG_INLINE void row_tile(const ProductArgs& args, int64_t begin, int64_t end, int64_t token) {
  const int64_t blocks = args.weight.cols / kBlock, groups = blocks / kBlockGroup;
  const bool whole = groups * T <= kWholeGroups;
  const int64_t piece = whole ? groups + 1 : kPieceGroups / T;
  F sums[kTileRows * T];
  for (int64_t first = 0; first <= groups; first += piece) {
    const int64_t last = first + piece < groups ? first + piece : groups;
    for (int64_t row = begin; row < end; row++) {
      F own[T];
      for (int t = 0; t < T; t++) own[t] = first == 0 ? zero() : sums[(row - begin) * T + t];
      if (whole) {
        add_groups<format, T>(args, row, token, 0, groups, groups + kLead, kLead * kBlockGroup, own);
      } else {
        // The next piece is this one of the next row, or the next one of the tile's first row.
        const int64_t next =
            row + 1 < end ? blocks + first * kBlockGroup : (begin - row) * blocks + last * kBlockGroup;
        add_groups<format, T>(args, row, token, first, last, piece < kLead ? piece : kLead, next, own);
      }
      if (last < groups) {
        for (int t = 0; t < T; t++) sums[(row - begin) * T + t] = own[t];
      } else {
        if (groups * kBlockGroup < blocks) add_rest<format, T>(args, row, token, groups * kBlockGroup, own);
        for (int t = 0; t < T; t++) finish(args, token + t, row, sum(own[t]));
      }
    }
    if (last == groups) break;
  }
}

// The tile with the tokens from `token` on, at most kRowTokens at a time: its weights stay in the cache.
template <Format format, int T>
void row_tiles(const ProductArgs& args, int64_t begin, int64_t end, int64_t token) {
  if constexpr (T > 0) {
    if (args.tokens - token < T) return row_tiles<format, T - 1>(args, begin, end, token);
    row_tile<format, T>(args, begin, end, token);
    if (token + T < args.tokens) row_tiles<format, T>(args, begin, end, token + T);
  }
}

template <Format format>
void rows_int8(const ProductArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row += kTileRows)
    row_tiles<format, kRowTokens>(args, row, row + kTileRows < end ? row + kTileRows : end, 0);
}

}  // namespace
}  // namespace cg
