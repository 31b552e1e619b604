// The operations: kernels of one instruction set spread over a team of threads, with its scratch memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "kernels/kernels.h"
#include "pool.h"

namespace cg {

// Memory that only grows, aligned to cache lines.
class Scratch {
 public:
  template <class T>
  T* get(int64_t count) {
    return static_cast<T*>(bytes(static_cast<size_t>(count) * sizeof(T)));
  }

 private:
  void* bytes(size_t size);

  std::unique_ptr<std::byte[]> memory_;
  size_t size_ = 0;
};

// Calls from several threads are served one after the other. Sizes and pointers are trusted.
class Context {
 public:
  Context(const Kernels& kernels, int threads);
  ~Context();

  const char* isa() const { return kernels_.isa; }
  int threads() const { return threads_; }

  void matmul(const Matrix& weight, const float* x, int64_t tokens, bool int8, float* y);
  // The position of the first id that is no row of the table, or -1 when all were.
  int64_t embed(const Matrix& table, const int32_t* ids, int64_t tokens, float scale, float* out);
  void rms_norm(const float* x, const float* weight, float eps, int64_t tokens, int64_t n, float* out);
  void rope(float* x, int64_t tokens, int64_t heads, int64_t head_dim, int64_t position, double theta);
  void attention(const AttentionArgs& args);
  void geglu(const float* gate, const float* up, int64_t n, float* out);

  // In the child of a fork the workers are gone and locks may be held for ever: starts a new team. The old
  // one cannot be destroyed and is leaked.
  void after_fork();

 private:
  struct Team;

  const Kernels& kernels_;
  const int threads_;
  std::unique_ptr<Team> team_;
};

}  // namespace cg
