// Floats to Q4 and I8 blocks, bit for bit as Jlama 0.8.4 writes them (Q4ByteBufferTensor and
// Q8ByteBufferTensor, processBlock). Nothing here may be contracted to a fused multiply-add.

namespace cg {
namespace {

// Java's (int) of a float: NaN to 0, saturating.
CG_INLINE int32_t java_int(float v) {
  if (v != v) return 0;
  if (v >= 2147483648.0f) return INT32_MAX;
  if (v < -2147483648.0f) return INT32_MIN;
  return (int32_t)v;
}

// Java's (byte): to int first, then the low eight bits.
CG_INLINE int8_t java_byte(int32_t v) { return (int8_t)(uint8_t)(uint32_t)v; }

// Java's Math.round: half up, exact, saturating.
CG_INLINE int32_t java_round(float v) {
  if (!(v > -8388608.0f && v < 8388608.0f)) return java_int(v);  // no fraction there
  const int32_t whole = (int32_t)v - ((float)(int32_t)v > v ? 1 : 0);
  return whole + (v - (float)whole >= 0.5f ? 1 : 0);
}

// Float.MIN_VALUE, where the search for the largest element starts.
CG_INLINE float tiniest() {
  const uint32_t bits = 1;
  float r;
  memcpy(&r, &bits, sizeof r);
  return r;
}

// The element of largest magnitude, the first of equals; NaN is passed over.
CG_INLINE float peak_of(const float* x) {
  float peak = tiniest(), magnitude = tiniest();
  for (int i = 0; i < kBlock; i++) {
    const float v = x[i] < 0 ? -x[i] : x[i];
    if (v > magnitude) {
      peak = x[i];
      magnitude = v;
    }
  }
  return peak;
}

// Any block, step by step as Jlama does it. `decoded` are the integers that a reader gets.
void encode_block_exactly(Format target, const float* x, uint8_t* out, float* scale, int* decoded) {
  const float peak = peak_of(x);
  if (target == Format::q4) {
    *scale = peak / -8.0f;
    const float inverse = *scale != 0.0f ? 1.0f / *scale : 0.0f;
    for (int j = 0; j < kBlock / 2; j++) {
      int nibble[2];
      for (int h = 0; h < 2; h++) {
        const float product = x[j + 16 * h] * inverse;
        const int value = java_byte(java_int(product + 8.5f));
        nibble[h] = value < 15 ? value : 15;  // may be negative: its upper bits spill over, as in Jlama
      }
      out[j] = (uint8_t)((uint32_t)nibble[0] | (uint32_t)nibble[1] << 4);
      decoded[j] = (out[j] & 15) - 8;
      decoded[j + 16] = (out[j] >> 4) - 8;
    }
  } else {
    const float inverse = 127.0f / (peak < 0 ? -peak : peak);
    *scale = inverse != 0.0f ? 1.0f / inverse : 0.0f;
    for (int j = 0; j < kBlock; j++) {
      const int8_t value = java_byte(java_round(x[j] * inverse));
      out[j] = (uint8_t)value;
      decoded[j] = value;
    }
  }
}

void encode_odd_block(Format target, const F v[4], uint8_t* out, float* scale, EncodeStats* stats) {
  float x[kBlock];
  int decoded[kBlock];
  for (int i = 0; i < 4; i++) store(x + i * kLanes, v[i]);
  encode_block_exactly(target, x, out, scale, decoded);
  double square = 0.0, error = 0.0;
  for (int i = 0; i < kBlock; i++) {
    const double value = x[i], lost = (double)decoded[i] * (double)*scale - value;
    square += value * value;
    error += lost * lost;
    if (!(x[i] - x[i] == 0.0f)) stats->finite = false;
  }
  if (square - square == 0.0) {
    stats->sum_sq += square;
    if (error - error == 0.0) stats->sum_sq_error += error;
  }
}

// A block without NaN, infinity and magnitudes whose squares leave f32: the same arithmetic, eight at a time.
template <Format target>
CG_INLINE F encode_ordinary_block(const F v[4], float highest, float lowest, uint8_t* out, float* scale) {
  F n[4], error = zero();
  if constexpr (target == Format::q4) {
    float peak = highest > -lowest ? highest : lowest;
    if (highest == -lowest) {  // a tie: the first one counts
      float x[kBlock];
      for (int i = 0; i < 4; i++) store(x + i * kLanes, v[i]);
      peak = peak_of(x);
    }
    *scale = peak / -8.0f;
    const F inverse = set1(1.0f / *scale), eight = set1(8.0f), step = set1(*scale);
    for (int i = 0; i < 4; i++) {
      n[i] = min(truncate(add(mul(v[i], inverse), set1(8.5f))), set1(15.0f));
      const F lost = sub(mul(sub(n[i], eight), step), v[i]);
      error = add(error, mul(lost, lost));
    }
    int8_t values[kBlock];
    pack_i8(n, values);
    uint64_t words[4];
    memcpy(words, values, sizeof words);
    for (int i = 0; i < 2; i++) words[i] |= words[i + 2] << 4;  // no byte exceeds 15
    memcpy(out, words, 16);
  } else {
    const float inverse = 127.0f / (highest > -lowest ? highest : -lowest);
    *scale = 1.0f / inverse;
    const F factor = set1(inverse), step = set1(*scale);
    for (int i = 0; i < 4; i++) {
      const F x = mul(v[i], factor), below = floor(x);
      n[i] = add(below, at_least(sub(x, below), set1(0.5f)));
      const F lost = sub(mul(n[i], step), v[i]);
      error = add(error, mul(lost, lost));
    }
    pack_i8(n, (int8_t*)out);
  }
  return error;
}

template <Format target, Format source>
void encode_blocks(const uint8_t* in, int64_t blocks, uint8_t* out, uint8_t* scales, EncodeStats* stats) {
  const int64_t in_bytes = bytes_of(source, kBlock), out_bytes = bytes_of(target, kBlock);
  for (int64_t b = 0; b < blocks; b++) {
    F v[4], high, low, squares;
    read_block<source>(in + b * in_bytes, nullptr, 0, v);
    high = low = v[0];
    squares = mul(v[0], v[0]);
    for (int i = 1; i < 4; i++) {
      high = max(high, v[i]);
      low = min(low, v[i]);
      squares = add(squares, mul(v[i], v[i]));
    }
    const float highest = largest(high), lowest = -largest(sub(zero(), low)), square = sum(squares);
    float scale;
    // The sum of squares is NaN or infinite as soon as an element is.
    if (square < 1e30f && square > 1e-24f) {
      const F error = encode_ordinary_block<target>(v, highest, lowest, out + b * out_bytes, &scale);
      stats->sum_sq += (double)square;
      stats->sum_sq_error += (double)sum(error);
    } else {
      encode_odd_block(target, v, out + b * out_bytes, &scale, stats);
    }
    memcpy(scales + b * 4, &scale, sizeof scale);
  }
}

template <Format target>
void encode_from(Format source, const uint8_t* in, int64_t blocks, uint8_t* out, uint8_t* scales,
                 EncodeStats* stats) {
  switch (source) {
    case Format::bf16: return encode_blocks<target, Format::bf16>(in, blocks, out, scales, stats);
    case Format::f16: return encode_blocks<target, Format::f16>(in, blocks, out, scales, stats);
    default: return encode_blocks<target, Format::f32>(in, blocks, out, scales, stats);
  }
}

void encode(Format target, Format source, const uint8_t* in, int64_t blocks, uint8_t* out, uint8_t* scales,
            EncodeStats* stats) {
  *stats = {true, 0.0, 0.0};
  if (target == Format::q4) {
    encode_from<Format::q4>(source, in, blocks, out, scales, stats);
  } else {
    encode_from<Format::i8>(source, in, blocks, out, scales, stats);
  }
}

}  // namespace
}  // namespace cg
