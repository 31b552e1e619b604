// The operations: kernels of one instruction set spread over a team of threads, with its scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "aligned_buffer.h"
#include "kernels/kernels.h"
#include "pool.h"

namespace cg {

// Memory that only grows.
class Scratch {
 public:
  template <class T>
  T* get(int64_t count) {
    return static_cast<T*>(bytes(static_cast<size_t>(count) * sizeof(T)));
  }

 private:
  void* bytes(size_t size);

  AlignedBuffer buffer_;
};

// Activations [tokens, cols] that enter a product; normalized (RMSNorm) on their way when `norm` is there.
struct Input {
  const float* x;
  int64_t tokens, cols;
  const float* norm;  // [cols] or null
  float eps;
  bool int8;  // whether they are rounded to int8 for weights in blocks
};

struct Output {
  Matrix weight;
  float* y;  // [tokens, rows]
};

// A layer of Gemma 1: its matrices, and its norms [hidden] as they are applied.
struct LayerWeights {
  const float* input_norm;
  Matrix q, k, v, o;
  const float* post_norm;
  Matrix gate, up, down;
};

// Keys or values [kv_heads, capacity, head_dim], strides in bytes.
struct CachePart {
  uint8_t* data;
  int64_t head_stride, token_stride;
};

struct LayerArgs {
  float* x;  // [tokens, hidden]; the layer's output takes the place of its input
  int64_t tokens, position;
  bool last_only;  // whether only the last token's output is wanted; the others are then left as they are
  int64_t head_dim;
  float scale;  // of attention scores
  float eps;
  double theta;
  bool int8;  // as of Input
  CachePart keys, values;
  bool half;  // whether the cache is in f16, otherwise f32
};

// Calls from several threads are served one after the other. Sizes and pointers are trusted.
class Context {
 public:
  Context(const Kernels& kernels, int threads);
  ~Context();

  const char* isa() const { return kernels_.isa; }
  int threads() const { return threads_; }

  // The position of the first id that is no row of the table, or -1 when all were.
  int64_t embed(const Matrix& table, const int32_t* ids, int64_t tokens, float scale, float* out);
  // Products of one input with several matrices, plus `residual` (of the first output's shape, or null).
  void products(const Input& input, const Output* outputs, int count, const float* residual);
  // gelu_tanh(input gate) * (input up): [tokens, rows].
  void gated_product(const Input& input, const Matrix& gate, const Matrix& up, float* y);
  void rope(float* x, int64_t tokens, int64_t heads, int64_t head_dim, int64_t position, double theta);
  void attention(const AttentionArgs& args);
  // All operations of a layer in their order, with keys and values written to the cache.
  void layer(const LayerWeights& weights, const LayerArgs& args);

  // In the child of a fork the workers are gone and locks may be held for ever: starts a new team. The old
  // one cannot be destroyed and is leaked.
  void after_fork();

 private:
  struct Team;
  struct Prepared;

  // Activations normalized and rounded as weights of the given formats want them.
  Prepared prepare(const Input& input, const bool* formats);
  // Attention of some rows with one segment, in a thread's scratch memory.
  void attend_on(const AttentionArgs& args, int64_t kv_head, int64_t first, int64_t count, int64_t segment,
                 int thread, float* states);
  // Keys or values [tokens, kv_heads, head_dim] to where they belong in the cache.
  void store(const float* entries, int64_t kv_heads, const LayerArgs& args, const CachePart& part);
  // RMSNorm of one token into `out`, which is returned.
  const float* normalize(const Input& input, int64_t token, float* out) const;
  // Rows [begin, end) of a product on one thread; row r of token t goes to y[t * y_stride + r - first_row].
  void multiply(const Input& input, const Prepared& prepared, const Matrix& weight, int64_t begin,
                int64_t end, int thread, float* y, int64_t y_stride, int64_t first_row,
                const float* residual);

  const Kernels& kernels_;
  const int threads_;
  std::unique_ptr<Team> team_;
};

}  // namespace cg
