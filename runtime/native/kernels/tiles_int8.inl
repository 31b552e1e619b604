// Products of few tokens with int8 activations, on sets with wide vectors: eight rows at a time, straight
// from the stored layout. Words of four columns are exchanged between four rows once, in registers; then
// every token adds the products of a block in one lane per row, and no sum has to be gathered from lanes.

namespace cg {
namespace {

constexpr int kQuads = kRowUnit / 4;
constexpr int64_t kGroupBlocks = kBlockGroup / 2;  // of half a group, one in each quarter of a vector

// Rows of a matrix, from one of their groups on.
struct TileRows {
  const uint8_t* data;
  const uint8_t* scales;
  int64_t row_bytes, row_scales;  // from row to row
};

// Half a group of four rows: word w of its blocks' first 16 columns in low[w], of the last in high[w], a row
// in each lane of a quarter.
struct Quad {
  WideBytes low[4], high[4];
  W scales;
};

template <Format format>
CG_INLINE void load_quad(const TileRows& rows, int first, int half, Quad* quad) {
  F scales[4];
  for (int r = 0; r < 4; r++) {
    const uint8_t* row = rows.data + (first + r) * rows.row_bytes;
    load_half_group<elements_of(format)>(row + bytes_of(format, half * kGroupBlocks * kBlock), quad->low + r,
                                         quad->high + r);
    scales[r] = load_scales<format>(rows.scales + (first + r) * rows.row_scales);
  }
  transpose_words(quad->low);
  transpose_words(quad->high);
  quad->scales = lanes_of_quarters(scales, half);
}

// A group of kRowUnit rows with all tokens; sums are [tokens, 2, kQuads].
template <Format format>
CG_INLINE void add_tile(const TileRows& rows, const TokenGroup* x, int64_t tokens, W* sums) {
  for (int half = 0; half < 2; half++) {
    Quad quads[kQuads];
    for (int q = 0; q < kQuads; q++) load_quad<format>(rows, 4 * q, half, quads + q);
    for (int64_t t = 0; t < tokens; t++) {
      const uint8_t* values = (const uint8_t*)x[t].values + half * kGroupBlocks * kBlock;
      const WideBytes low = load_wide_bytes(values);
      const WideBytes high = load_wide_bytes(values + 64);
      const WideBytes offsets = load_quarters(x[t].offsets + half * kGroupBlocks);
      const W x_scales = load_quarters(x[t].scales + half * kGroupBlocks);
      WideBytes first[kQuads], last[kQuads];  // two chains of sums wait less for each other than one
      for (WideBytes& sum : first) sum = offsets;
      for (WideBytes& sum : last) sum = wide_zero_bytes();
      const auto add_words = [&](int w, WideBytes of_low, WideBytes of_high) {
        for (int q = 0; q < kQuads; q++) first[q] = add_products(first[q], quads[q].low[w], of_low);
        for (int q = 0; q < kQuads; q++) last[q] = add_products(last[q], quads[q].high[w], of_high);
      };
      add_words(0, spread_word<0>(low), spread_word<0>(high));
      add_words(1, spread_word<1>(low), spread_word<1>(high));
      add_words(2, spread_word<2>(low), spread_word<2>(high));
      add_words(3, spread_word<3>(low), spread_word<3>(high));
      W* own = sums + (2 * t + half) * kQuads;
      for (int q = 0; q < kQuads; q++)
        own[q] = fma(mul(to_float(add(first[q], last[q])), quads[q].scales), x_scales, own[q]);
    }
  }
}

// Joins the blocks of a group in the order in which a row product joins its lanes; the first quarter counts.
template <Format format>
CG_INLINE W join_quarters(W first, W second) {
  if constexpr (elements_of(format) == Format::q4) {
    const W sums = add(add(first, swap_neighbours(first)), add(second, swap_neighbours(second)));
    return add(sums, swap_halves(sums));
  } else {
    const W sums = add(first, second), four = add(sums, swap_halves(sums));
    return add(four, swap_neighbours(four));
  }
}

// Rows [begin, begin + count), count <= kRowUnit.
template <Format format>
void tile_int8(const ProductArgs& args, int64_t begin, int64_t count) {
  constexpr int64_t kScale = scale_bytes(format), kGroupScales = kBlockGroup * kScale;
  constexpr int64_t kGroupBytes = kBlockGroup * bytes_of(format, kBlock);
  const int64_t blocks = args.weight.cols / kBlock, tokens = args.tokens;
  const int64_t row_bytes = blocks * bytes_of(format, kBlock), row_scales = blocks * kScale;
  const uint8_t* data = args.weight.data + begin * row_bytes;
  const uint8_t* scales = args.weight.scales + begin * row_scales;
  const TokenGroup* x = static_cast<const TokenGroup*>(args.quantized.data);
  W sums[kFewTokensInt8 * 2 * kQuads];
  for (int64_t i = 0; i < tokens * 2 * kQuads; i++) sums[i] = wide_zero();
  for (int64_t first = 0; first < blocks; first += kBlockGroup) {
    // The next tile is asked for in the order in which it lies, kRowUnit groups at a time.
    const int64_t g = first / kBlockGroup, next = kRowUnit * (row_bytes + g * kGroupBytes);
    const int64_t next_scales = kRowUnit * (row_scales + g * kGroupScales);
    for (int64_t line = 0; line < kRowUnit * kGroupBytes; line += 64) prefetch_far(data + next + line);
    for (int64_t line = 0; line < kRowUnit * kGroupScales; line += 64)
      prefetch_far(scales + next_scales + line);
    const TileRows rows{data + g * kGroupBytes, scales + g * kGroupScales, row_bytes, row_scales};
    if (count < kRowUnit || first + kBlockGroup > blocks) {  // a padded copy: nothing past the end is read
      uint8_t data_copy[kRowUnit * kGroupBytes] = {}, scales_copy[kRowUnit * kGroupScales] = {};
      const int64_t present = first + kBlockGroup > blocks ? blocks - first : kBlockGroup;
      for (int64_t r = 0; r < count; r++) {
        memcpy(data_copy + r * kGroupBytes, rows.data + r * row_bytes,
               (size_t)bytes_of(format, present * kBlock));
        memcpy(scales_copy + r * kGroupScales, rows.scales + r * row_scales, (size_t)(present * kScale));
      }
      add_tile<format>({data_copy, scales_copy, kGroupBytes, kGroupScales}, x, tokens, sums);
    } else {
      add_tile<format>(rows, x, tokens, sums);
    }
    x += tokens;
  }
  for (int64_t t = 0; t < tokens; t++) {
    const W* own = sums + 2 * t * kQuads;
    for (int64_t q = 0; q < kQuads; q++) {
      float four[kWideLanes];
      store(four, join_quarters<format>(own[q], own[kQuads + q]));
      for (int64_t r = 4 * q; r < 4 * q + 4 && r < count; r++) finish(args, t, begin + r, four[r - 4 * q]);
    }
  }
}

template <Format format>
void tiles_int8(const ProductArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row += kRowUnit)
    tile_int8<format>(args, row, row + kRowUnit < end ? kRowUnit : end - row);
}

}  // namespace
}  // namespace cg
