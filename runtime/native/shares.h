// How work is shared out to threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace cg {

// Below about this many multiply-adds (a few microseconds) a second thread costs more than it brings.
constexpr int64_t kSmallWork = 1 << 16;
// Weights in a piece of a product: small enough to even out cores of unequal speed, large enough to read
// memory in long runs.
constexpr int64_t kPieceBytes = 1 << 18;
// Tokens from which arithmetic makes a piece long enough, however few bytes it has.
constexpr int64_t kPieceTokens = 256;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The rows of several matrices, cut into pieces of about equally many bytes. A piece is whole units of rows.
class Shares {
 public:
  explicit Shares(int64_t unit) : unit_(unit) {}

  void add(const Matrix& matrix) {
    const int64_t scales = matrix.cols / kBlock * scale_bytes(matrix.format);
    const int64_t bytes = unit_ * (bytes_of(matrix.format, matrix.cols) + scales);
    const int64_t end = total() + divide_up(matrix.rows, unit_) * std::max<int64_t>(bytes, 1);
    parts_.push_back({matrix.rows, std::max<int64_t>(bytes, 1), total(), end});
  }

  // How many pieces a product of so many tokens should have.
  int64_t cut(int64_t tokens, int threads) {
    int64_t units = 0;
    for (const Part& part : parts_) units += divide_up(part.rows, unit_);
    const int64_t wanted = total() / kPieceBytes * divide_up(tokens, kPieceTokens);
    pieces_ = threads == 1 || total() * tokens < kSmallWork
                  ? 1
                  : std::min(std::max<int64_t>(wanted, threads), units);
    return pieces_;
  }

  // Calls f(matrix, begin, end) for the rows of piece i.
  template <class F>
  void each(int64_t i, F f) const {
    const int64_t begin = total() / pieces_ * i + total() % pieces_ * i / pieces_;
    const int64_t end = total() / pieces_ * (i + 1) + total() % pieces_ * (i + 1) / pieces_;
    for (size_t p = 0; p < parts_.size(); p++) {
      const Part& part = parts_[p];
      const auto row = [&](int64_t at) {
        return std::min(divide_up(std::clamp(at, part.begin, part.end) - part.begin, part.bytes) * unit_,
                        part.rows);
      };
      if (row(begin) < row(end)) f(static_cast<int>(p), row(begin), row(end));
    }
  }

 private:
  struct Part {
    int64_t rows, bytes, begin, end;  // bytes of a unit; begin and end in bytes
  };

  int64_t total() const { return parts_.empty() ? 0 : parts_.back().end; }

  int64_t unit_;
  int64_t pieces_ = 1;
  std::vector<Part> parts_;
};

}  // namespace cg
