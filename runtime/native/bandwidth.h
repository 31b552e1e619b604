// How fast this machine's memory can be read: the limit of every decoding step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "aligned_buffer.h"

namespace cg {

// Memory at any address.
struct Span {
  const uint8_t* begin;
  size_t size;
};

// Reads all spans once, `threads` threads together, and returns the sum of their words modulo 2^64; a word is
// 8 bytes in the machine's order, the bytes that a span has beside whole words count one by one. Throws
// std::system_error if a thread is refused.
uint64_t read_all(const std::vector<Span>& spans, int threads);

// Seconds of each of `passes` passes over the spans, after one that is not counted. Throws as read_all, and
// std::runtime_error if a pass did not add up.
std::vector<double> time_reads(const std::vector<Span>& spans, int threads, int passes);

// A private buffer whose word i holds i, on huge pages if it is large: files are mapped so too.
class ReadBuffer {
 public:
  // Of `size` bytes, a multiple of 8. Throws std::bad_alloc, and std::system_error if a thread is refused.
  ReadBuffer(size_t size, int threads);

  std::vector<Span> spans() const;
  int64_t words() const { return words_; }

 private:
  AlignedBuffer memory_;
  int64_t words_;
};

}  // namespace cg
