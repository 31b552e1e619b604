// How fast this machine's memory can be read: the limit of every decoding step.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace cg {

// A private buffer whose word i holds i, on huge pages where the system has them: files are mapped so too.
class ReadBuffer {
 public:
  // Of `size` bytes, a multiple of 8. Throws std::bad_alloc, and std::system_error if a thread is refused.
  ReadBuffer(size_t size, int threads);

  // Reads all of it once, `threads` threads together, and returns the sum of the words modulo 2^64.
  uint64_t read(int threads) const;

  int64_t words() const { return words_; }

 private:
  std::unique_ptr<std::byte[]> memory_;
  uint64_t* first_ = nullptr;
  int64_t words_;
};

// Seconds of each of `passes` passes over a new buffer of `size` bytes, after one that is not counted.
// Throws as ReadBuffer, and std::runtime_error if a pass did not add up.
std::vector<double> time_reads(size_t size, int threads, int passes);

}  // namespace cg
