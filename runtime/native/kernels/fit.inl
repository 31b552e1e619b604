// Integers and scales of blocks fitted to targets: many scales are tried, each with all of its rounding, and
// then refitted by least squares. Eight rows at a time, one in each lane, so that a row's result does not
// depend on its neighbours. Multiplication and addition are never fused: numpy computes the same to the bit.

namespace cg {
namespace {

// Scales that are tried at a time; their chains of additions run side by side.
constexpr int kScalesTogether = 4;
// How often a scale is refitted to its integers and they to it.
constexpr int kRefits = 2;

// Eight rows of one block and the best that was found for them.
struct FitState {
  F target[kBlock];
  F seen[kBlock];  // target * coupling: what the integers of all columns have to amount to
  F integers[kBlock];
  F scale, loss;
};

CG_INLINE F magnitude(F a) { return max(a, sub(zero(), a)); }

// To the nearest number that f16 holds: its 11 bits are cut by Veltkamp's splitting; below 2^-14 its steps
// are 2^-24, as are those of floats near 0.75.
CG_INLINE F to_half(F a) {
  const F highest = set1(65504.0f), within = max(min(a, highest), sub(zero(), highest));
  const F large = mul(within, set1(8193.0f)), normal = sub(large, sub(large, within));
  const F magic = set1(0.75f), small = sub(add(within, magic), magic);
  return select_less(magnitude(within), set1(6.103515625e-05f), small, normal);
}

CG_INLINE F inverse_of(F scale) {
  return select_less(magnitude(scale), set1(1e-37f), zero(), div(set1(1.0f), scale));
}

// What `integers` amount to in each column with what earlier columns carry over.
CG_INLINE F carried(const F* values, const FitArgs& args, int column) {
  F sum = values[column];
  for (int i = 0; i < column; i++) {
    sum = add(sum, mul(values[i], set1(args.coupling[i * kBlock + column])));
  }
  return sum;
}

CG_INLINE void keep_better(FitState* state, const F* integers, F scale, F loss) {
  for (int j = 0; j < kBlock; j++) {
    state->integers[j] = select_less(loss, state->loss, integers[j], state->integers[j]);
  }
  state->scale = select_less(loss, state->loss, scale, state->scale);
  state->loss = select_less(loss, state->loss, loss, state->loss);
}

// Rounds the block once with each scale, column after column, every error carried to the columns behind it.
template <int count>
CG_INLINE void try_scales(const FitArgs& args, FitState* state, const F* scales) {
  F error[kBlock][count], integers[count][kBlock], inverse[count], loss[count];
  for (int c = 0; c < count; c++) {
    inverse[c] = inverse_of(scales[c]);
    loss[c] = zero();
  }
  const F lowest = set1(args.lowest), highest = set1(args.highest), half = set1(0.5f);
  for (int j = 0; j < kBlock; j++) {
    F x[count];
    CG_UNROLL_8
    for (int c = 0; c < count; c++) x[c] = state->target[j];
    const int behind = args.diagonal ? 0 : j;
    for (int i = 0; i < behind; i++) {
      const F coupling = set1(args.coupling[i * kBlock + j]);
      CG_UNROLL_8
      for (int c = 0; c < count; c++) x[c] = add(x[c], mul(error[i][c], coupling));
    }
    const F target = state->target[j], root = set1(args.diagonal_root[j]);
    CG_UNROLL_8
    for (int c = 0; c < count; c++) {
      const F integer = max(min(floor(add(mul(x[c], inverse[c]), half)), highest), lowest);
      const F value = mul(integer, scales[c]), lost = mul(sub(x[c], value), root);
      integers[c][j] = integer;
      error[j][c] = sub(target, value);
      loss[c] = add(loss[c], mul(lost, lost));
    }
  }
  for (int c = 0; c < count; c++) keep_better(state, integers[c], scales[c], loss[c]);
}

// The least-squares scale of the best integers, with them and with a new rounding.
CG_INLINE void refit(const FitArgs& args, FitState* state) {
  F made[kBlock], integers[kBlock], above = zero(), below = zero();
  for (int j = 0; j < kBlock; j++) {
    integers[j] = state->integers[j];
    made[j] = args.diagonal ? integers[j] : carried(integers, args, j);
    const F root = set1(args.diagonal_root[j]), weighted = mul(mul(made[j], root), root);
    above = add(above, mul(weighted, state->seen[j]));
    below = add(below, mul(weighted, made[j]));
  }
  F scale = select_less(zero(), below, div(above, below), state->scale);
  if (args.half) scale = to_half(scale);
  F loss = zero();
  for (int j = 0; j < kBlock; j++) {
    const F lost = mul(sub(state->seen[j], mul(scale, made[j])), set1(args.diagonal_root[j]));
    loss = add(loss, mul(lost, lost));
  }
  keep_better(state, integers, scale, loss);
  try_scales<1>(args, state, &scale);
}

void fit_rows(const FitArgs& args, int64_t row, int count) {
  FitState state;
  F peak = zero();
  for (int j = 0; j < kBlock; j++) {
    float column[kLanes];
    for (int i = 0; i < kLanes; i++) {
      column[i] = i < count ? args.targets[(row + i) * args.target_stride + j] : 0.0f;
    }
    state.target[j] = load(column);
    state.integers[j] = zero();
    // The first of equals, as in Jlama.
    peak = select_less(magnitude(peak), magnitude(state.target[j]), state.target[j], peak);
  }
  for (int j = 0; j < kBlock; j++) {
    state.seen[j] = args.diagonal ? state.target[j] : carried(state.target, args, j);
  }
  state.scale = zero();
  state.loss = set1(3.4e38f);
  for (int64_t at = 0; at < args.candidates; at += kScalesTogether) {
    F scales[kScalesTogether];
    for (int c = 0; c < kScalesTogether; c++) {
      const int64_t one = at + c < args.candidates ? at + c : args.candidates - 1;
      scales[c] = mul(peak, set1(args.fractions[one]));
      if (args.half) scales[c] = to_half(scales[c]);
    }
    try_scales<kScalesTogether>(args, &state, scales);
  }
  for (int i = 0; i < kRefits; i++) refit(args, &state);

  float scales[kLanes], losses[kLanes];
  store(scales, state.scale);
  store(losses, state.loss);
  for (int i = 0; i < count; i++) {
    args.scales[(row + i) * args.scale_stride] = scales[i];
    args.losses[row + i] = losses[i];
  }
  for (int j = 0; j < kBlock; j++) {
    float column[kLanes];
    store(column, state.integers[j]);
    for (int i = 0; i < count; i++) args.integers[(row + i) * args.integer_stride + j] = (int8_t)column[i];
  }
}

void fit(const FitArgs& args, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row += kLanes) {
    fit_rows(args, row, (int)(end - row < kLanes ? end - row : kLanes));
  }
}

}  // namespace
}  // namespace cg
