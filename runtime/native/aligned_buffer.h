// Private memory, aligned to cache lines; a large one lies on huge pages where the system has them.
#pragma once

#include <cstddef>
#include <memory>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cg {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // Throws std::bad_alloc.
  explicit AlignedBuffer(size_t size) : size_(size) {
    const size_t alignment = size < kLarge ? kCacheLine : kHugePage;
    size_t space = size + alignment;
    memory_.reset(new std::byte[space]);
    void* p = memory_.get();
    data_ = std::align(alignment, size, p, space);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    // It fails where the system has no huge pages, and then small ones are the best there is.
    if (alignment == kHugePage) (void)madvise(data_, size, MADV_HUGEPAGE);
#endif
  }

  void* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  static constexpr size_t kCacheLine = 64;
  static constexpr size_t kHugePage = 2 << 20;
  static constexpr size_t kLarge = 2 * kHugePage;  // fewer would hardly be filled

  std::unique_ptr<std::byte[]> memory_;
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace cg
