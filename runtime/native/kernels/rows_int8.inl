// Products of a few tokens with int8 activations, straight from the stored layout: every byte of the weights
// is loaded once. The products of a block are exact integers; blocks add up in f32, in eight lanes.

namespace cg {
namespace {

// Long rows are taken in pieces, a tile of rows at a time, so that the activations of a piece stay in the
// first cache: as many groups times tokens as that. Rows that are little longer stay whole.
constexpr int64_t kPieceGroups = 64;
constexpr int64_t kWholeGroups = 128;
constexpr int64_t kTileRows = 16;
constexpr int kRowTokens = 8;
// How far ahead weights are asked for into the second cache, in groups of Q4; of pieces, half of that was
// best.
constexpr int64_t kLead = kPrefetchBytes / 128;
constexpr int64_t kPieceLead = kLead / 2;
// And from there into the first, for one token.
constexpr int64_t kNear = 16;

// Eight blocks with T tokens, which lie next to each other.
template <Format format, int T>
CG_INLINE void add_group(const uint8_t* w, const uint8_t* w_scales, const TokenGroup* x, F* sums) {
  const auto group = load_group<elements_of(format)>(w);
  const F w_scale = in_lane_order<elements_of(format)>(load_scales<format>(w_scales));
  I products[T];
  for (int t = 0; t < T; t++) products[t] = add(dot(group, x[t].values), load_ints(x[t].offsets));
  for (int t = 0; t < T; t++) sums[t] = fma(mul(to_float(products[t]), w_scale), load(x[t].scales), sums[t]);
}

CG_INLINE const TokenGroup* group_of(const ProductArgs& args, int64_t token, int64_t group) {
  return static_cast<const TokenGroup*>(args.quantized.data) + group * args.quantized.tokens + token;
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
  add_group<format, T>(rest, rest_scales, group_of(args, token, begin / kBlockGroup), sums);
}

// A row's groups [first, last); the weights `ahead` blocks from each are asked for. What is added next begins
// `gap` blocks behind these groups.
template <Format format, int T>
CG_INLINE void add_groups(const ProductArgs& args, int64_t row, int64_t token, int64_t first, int64_t last,
                          int64_t ahead, int64_t gap, F* sums) {
  constexpr int64_t kScale = scale_bytes(format), kGroupScales = kBlockGroup * kScale;
  constexpr int64_t kGroupBytes = kBlockGroup * bytes_of(format, kBlock);
  const int64_t block = row * (args.weight.cols / kBlock) + first * kBlockGroup;
  const uint8_t* data = args.weight.data + bytes_of(format, block * kBlock);
  const uint8_t* scales = args.weight.scales + block * kScale;
  const int64_t far = bytes_of(format, ahead * kBlock), far_scales = ahead * kScale;
  const TokenGroup* x = group_of(args, token, first);
  for (int64_t g = first; g < last; g++) {
    for (int64_t line = 0; line < kGroupBytes; line += 64) prefetch_far(data + far + line);
    prefetch_far(scales + far_scales);
    if constexpr (T == 1) {  // more tokens are not that quick
      const int64_t near = kNear * kBlockGroup + (g + kNear < last ? 0 : gap);
      for (int64_t line = 0; line < kGroupBytes; line += 64)
        prefetch(data + bytes_of(format, near * kBlock) + line);
      prefetch(scales + near * kScale);
    }
    add_group<format, T>(data, scales, x, sums);
    data += kGroupBytes;
    scales += kGroupScales;
    x += args.quantized.tokens;
  }
}

// Rows [begin, end), at most kTileRows, with T tokens.
template <Format format, int T>
CG_INLINE void row_tile(const ProductArgs& args, int64_t begin, int64_t end, int64_t token) {
  const int64_t blocks = args.weight.cols / kBlock, groups = blocks / kBlockGroup;
  const bool whole = groups * T <= kWholeGroups;
  const int64_t piece = whole ? groups + 1 : kPieceGroups / T;
  const int64_t lead = kPieceLead / piece;  // in rows
  F sums[kTileRows * T];
  for (int64_t first = 0; first <= groups; first += piece) {
    const int64_t last = first + piece < groups ? first + piece : groups;
    for (int64_t row = begin; row < end; row++) {
      F own[T];
      for (int t = 0; t < T; t++) own[t] = first == 0 ? zero() : sums[(row - begin) * T + t];
      // Pieces: of a row further down in the tile, or the next ones of its first rows.
      const int64_t ahead = whole              ? kLead * kBlockGroup
                            : row + lead < end ? lead * blocks
                                               : (begin - end + lead) * blocks + piece * kBlockGroup;
      add_groups<format, T>(args, row, token, first, last, ahead, whole ? 0 : blocks - piece * kBlockGroup,
                            own);
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
#if defined(CG_TILES)
  if (takes_tiles(args.tokens, args.weight.cols)) return tiles_int8<format>(args, begin, end);
#endif
  for (int64_t row = begin; row < end; row += kTileRows)
    row_tiles<format, kRowTokens>(args, row, row + kTileRows < end ? row + kTileRows : end, 0);
}

}  // namespace
}  // namespace cg
