// What one instruction set offers to the dispatcher. No standard C++ headers: every kernel file includes
// this.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace cg {

// Elements that share one scale.
constexpr int64_t kBlock = 32;
// Blocks handled per step of a row product.
constexpr int64_t kBlockGroup = 8;
// Most tokens that a row product takes (with int8 activations an instruction set may take more); more go
// through panels, which cost less per token but unpack first.
constexpr int64_t kFewTokens = 16;
// Ranges of a row product should begin at a multiple of it.
constexpr int64_t kRowUnit = 8;
// Most tokens that an instruction set wants side by side.
constexpr int64_t kMostTokens = 16;
// Query rows that share one pass over keys and values.
constexpr int64_t kQueryTile = 32;
// Entries of the key-value cache whose softmax is computed at a time.
constexpr int64_t kSegment = 128;

// q4h is q4 with scales in f16.
enum class Format : int { q4 = 0, i8 = 1, q4h = 2, bf16 = 3, f16 = 4, f32 = 5 };
constexpr int kFormats = 6;
constexpr int kBlockFormats = 3;
// Block formats that differ in more than their scales; they come first.
constexpr int kElementFormats = 2;

constexpr bool is_blocked(Format format) { return static_cast<int>(format) < kBlockFormats; }

// How the elements are stored, whatever their scales are.
constexpr Format elements_of(Format format) { return format == Format::q4h ? Format::q4 : format; }

// Bytes of `elements` elements, scales not counted.
constexpr int64_t bytes_of(Format format, int64_t elements) {
  return elements_of(format) == Format::q4 ? elements / 2
         : format == Format::i8            ? elements
         : format == Format::f32           ? elements * 4
                                           : elements * 2;
}

// Bytes of one block's scale.
constexpr int64_t scale_bytes(Format format) {
  return format == Format::q4h ? 2 : is_blocked(format) ? 4 : 0;
}

// A stored matrix, row after row, at any address. `scales` are f32 (q4h: f16) [rows, cols / 32], also at any
// address.
struct Matrix {
  const uint8_t* data;
  const uint8_t* scales;
  Format format;
  int64_t rows;
  int64_t cols;
};

// How prepared activations lie: as the row products want them, or the panel products.
enum class Layout : int { rows = 0, panels = 1 };

// Activations as int8 blocks, laid out by quantize_token. A block with NaN or infinity has scale NaN.
struct QuantizedTokens {
  void* data;  // quantized_bytes(layout, cols, tokens), aligned to a cache line
  int64_t tokens;
};

// y[tokens, rows] = x[tokens, cols] times the transposed matrix, plus `residual` where there is one.
struct ProductArgs {
  Matrix weight;
  const float* x;             // for f32 activations; for panels [tokens / float_tokens, cols, float_tokens]
  QuantizedTokens quantized;  // for int8 activations
  int64_t tokens;
  float* y;               // row r of token t at y[t * y_stride + r - first_row]
  const float* residual;  // likewise; may be y; null for none
  int64_t y_stride;
  int64_t first_row;
  void* scratch;  // scratch_bytes(cols, tokens) for a panel product
};

// Computes rows [begin, end) of all tokens. What a token gets depends neither on the range nor on its
// neighbours.
using Product = void (*)(const ProductArgs& args, int64_t begin, int64_t end);

struct Products {
  Product rows;    // few tokens: weights are read once, straight from the file's layout
  Product panels;  // many tokens: rows are unpacked a panel at a time
};

struct AttentionArgs {
  const float* q;         // [tokens, heads, head_dim]
  const uint8_t* keys;    // f16 or f32 [kv_heads, capacity, head_dim], strides in bytes
  const uint8_t* values;  // likewise
  bool half;
  int64_t key_head_stride, key_token_stride;
  int64_t value_head_stride, value_token_stride;
  int64_t tokens, heads, kv_heads, head_dim;
  int64_t position;  // of the first token
  float scale;
  float* out;  // [tokens, heads, head_dim]
};

struct EncodeStats {
  bool finite;
  double sum_sq;        // of the source, blocks with NaN or infinity left out
  double sum_sq_error;  // of what the blocks lose, likewise
};

// One block of each of several rows, to be fitted to targets. With M the upper triangular factor of what
// errors cost, a row's loss is the squared length of (target - integers * scale) M.
struct FitArgs {
  const float* targets;  // [rows, kBlock], finite
  int64_t target_stride;
  const float* coupling;       // [kBlock, kBlock] M with each column divided by its diagonal element
  const float* diagonal_root;  // [kBlock] M's diagonal
  bool diagonal;               // whether M has nothing beside it
  const float* fractions;      // scales to try, as parts of a block's element of largest magnitude
  int64_t candidates;          // at least one
  float lowest, highest;       // of the integers
  bool half;                   // only scales that f16 holds
  int8_t* integers;            // [rows, kBlock]
  int64_t integer_stride;
  float* scales;  // [rows]
  int64_t scale_stride;
  float* losses;  // [rows]
};

struct Kernels {
  const char* isa;
  int64_t panel_rows;    // ranges of a panel product should begin at a multiple of it
  int64_t few_tokens;    // most tokens of a row product with int8 activations, at least kFewTokens
  int64_t float_tokens;  // activations as floats for panels need room for a multiple of it
  Products f32_products[kFormats];
  Products int8_products[kBlockFormats];
  // What a panel product needs per thread, aligned to a cache line.
  int64_t (*f32_scratch_bytes)(int64_t cols, int64_t tokens);
  int64_t (*int8_scratch_bytes)(int64_t cols, int64_t tokens);
  // The floats of at most float_tokens tokens side by side, [cols, float_tokens], as panel products want
  // them.
  void (*spread_tokens)(const float* const* x, int64_t tokens, int64_t cols, float* out);
  int64_t (*quantized_bytes)(Layout layout, int64_t cols, int64_t tokens);
  // One token's `cols` floats to token `token` of `out`, for weights whose elements are q4 or i8.
  void (*quantize_token)(Format format, Layout layout, const float* x, int64_t cols,
                         const QuantizedTokens& out, int64_t token);
  // One row of a matrix, dequantized, times `scale`.
  void (*embed)(const Matrix& table, int64_t row, float scale, float* out);
  // The two halves of a norm; the root between them is the caller's.
  float (*sum_of_squares)(const float* x, int64_t n);
  void (*weigh)(const float* x, const float* weight, float factor, int64_t n,
                float* out);  // x * factor * weight
  // One token [heads, head_dim] in place; cosine and sine are [head_dim / 2].
  void (*rope)(float* x, const float* cosine, const float* sine, int64_t heads, int64_t head_dim);
  void (*geglu)(const float* gate, const float* up, int64_t n, float* out);
  // To the nearest f16, ties to even, infinity beyond the largest; at any address.
  void (*to_f16)(const float* x, int64_t n, uint8_t* out);
  // Attention of query rows [first, first + count) of one kv head with one segment of the cache, count <=
  // kQueryTile; row = token * (heads / kv_heads) + head. What the last row does not see is not read.
  void (*attend)(const AttentionArgs& args, int64_t kv_head, int64_t first, int64_t count, int64_t segment,
                 float* scratch, float* partials);
  int64_t (*attention_floats)(int64_t head_dim);  // of scratch
  int64_t (*partial_floats)(int64_t head_dim);    // of a row's partial result
  // A row's partial result of later segments to that of those before; what it amounts to.
  void (*join)(int64_t head_dim, const float* partial, float* state);
  void (*conclude)(int64_t head_dim, const float* state, float* out);
  // `blocks` blocks of a float format to Q4 or I8, bit for bit as Jlama does.
  void (*encode)(Format target, Format source, const uint8_t* in, int64_t blocks, uint8_t* out,
                 uint8_t* scales, EncodeStats* stats);
  // Rows [begin, end).
  void (*fit)(const FitArgs& args, int64_t begin, int64_t end);
};

extern const Kernels kernels_portable;
extern const Kernels kernels_avx2;
extern const Kernels kernels_avxvnni;  // where the compiler knows it: CG_HAVE_AVXVNNI
extern const Kernels kernels_avx512vnni;
extern const Kernels kernels_neon;
extern const Kernels kernels_neon_dotprod;

}  // namespace cg

#if defined(__x86_64__) || defined(_M_X64)
#define CG_X86 1
#elif defined(__aarch64__) || defined(_M_ARM64)
#define CG_ARM64 1
#endif

#if defined(_MSC_VER)
#define CG_INLINE static __forceinline
#define CG_MEMBER __forceinline
#define CG_UNROLL_8
#else
#define CG_INLINE static inline __attribute__((always_inline))
#define CG_MEMBER inline __attribute__((always_inline))
#define CG_UNROLL_8 _Pragma("GCC unroll 8")
#endif
