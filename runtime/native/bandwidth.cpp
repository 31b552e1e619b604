#include "bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <thread>

namespace cg {
namespace {

// A thread takes the next piece when it is done with one: a core that others use as well does not hold up
// the rest. 2 MiB, so that taking them costs nothing.
constexpr int64_t kPieceBytes = 2 << 20;
// Independent sums: with one, a core would wait for its additions rather than for memory.
constexpr int kSums = 16;

uint64_t word_at(const uint8_t* p) {
  uint64_t r;
  std::memcpy(&r, p, sizeof r);
  return r;
}

uint64_t sum(const uint8_t* bytes, int64_t n) {
  constexpr int64_t kWord = sizeof(uint64_t);
  uint64_t sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums * kWord <= n; i += kSums * kWord) {
    for (int k = 0; k < kSums; k++) sums[k] += word_at(bytes + i + k * kWord);
  }
  for (; i + kWord <= n; i += kWord) sums[0] += word_at(bytes + i);
  for (; i < n; i++) sums[0] += bytes[i];
  uint64_t total = 0;
  for (const uint64_t s : sums) total += s;
  return total;
}

class Threads {
 public:
  ~Threads() {
    for (std::thread& thread : threads_) thread.join();
  }
  template <class F>
  void start(const F& f) {
    threads_.emplace_back(f);
  }

 private:
  std::vector<std::thread> threads_;
};

// Calls f(begin, end) for pieces of bytes [0, n) on `threads` threads, the calling one among them. They are
// started for this call alone: a few dozen microseconds, of tens of milliseconds.
template <class F>
void share_out(int64_t n, int threads, F f) {
  std::atomic<int64_t> next{0};
  auto work = [&] {
    for (;;) {
      const int64_t begin = next.fetch_add(kPieceBytes, std::memory_order_relaxed);
      if (begin >= n) return;
      f(begin, std::min(begin + kPieceBytes, n));
    }
  };
  Threads others;
  for (int i = 1; i < threads; i++) others.start(work);
  work();
}

}  // namespace

ReadBuffer::ReadBuffer(size_t size, int threads)
    : memory_(size), words_(static_cast<int64_t>(size / sizeof(uint64_t))) {
  auto* first = static_cast<uint64_t*>(memory_.data());
  constexpr int64_t kWord = sizeof(uint64_t);
  share_out(words_ * kWord, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin / kWord; i < end / kWord; i++) first[i] = static_cast<uint64_t>(i);
  });
}

std::vector<Span> ReadBuffer::spans() const {
  return {{static_cast<const uint8_t*>(memory_.data()), memory_.size()}};
}

uint64_t read_all(const std::vector<Span>& spans, int threads) {
  // A span is cut on its own: its words count from its beginning.
  std::vector<int64_t> starts{0};
  for (const Span& span : spans) {
    const auto pieces = (static_cast<int64_t>(span.size) + kPieceBytes - 1) / kPieceBytes;
    starts.push_back(starts.back() + pieces * kPieceBytes);
  }
  std::atomic<uint64_t> total{0};
  share_out(starts.back(), threads, [&](int64_t begin, int64_t) {
    const auto at = std::upper_bound(starts.begin(), starts.end(), begin) - starts.begin() - 1;
    const Span& span = spans[static_cast<size_t>(at)];
    const int64_t offset = begin - starts[static_cast<size_t>(at)];
    total += sum(span.begin + offset, std::min(kPieceBytes, static_cast<int64_t>(span.size) - offset));
  });
  return total;
}

std::vector<double> time_reads(const std::vector<Span>& spans, int threads, int passes) {
  using Clock = std::chrono::steady_clock;
  const uint64_t expected = read_all(spans, threads);
  std::vector<double> seconds;
  for (int i = 0; i < passes; i++) {
    const Clock::time_point start = Clock::now();
    const uint64_t total = read_all(spans, threads);
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    // Also keeps the compiler from leaving the reading out.
    if (total != expected) throw std::runtime_error("two passes over the same memory gave different sums");
  }
  return seconds;
}

}  // namespace cg
