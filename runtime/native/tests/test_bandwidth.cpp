// Measuring bandwidth: every word is read once, whatever the size and the number of threads.

#include "bandwidth.h"
#include "check.h"

namespace {

void every_word_once(size_t size, int threads) {
  const cg::ReadBuffer buffer(size, threads);
  const uint64_t n = size / 8, expected = n * (n - 1) / 2;
  CHECK(buffer.words() == static_cast<int64_t>(n), "%zu bytes", size);
  for (const int readers : {1, 2, 5}) {
    const uint64_t sum = cg::read_all(buffer.spans(), readers);
    CHECK(sum == expected, "%zu bytes, %d threads: %llu, not %llu", size, readers, (unsigned long long)sum,
          (unsigned long long)expected);
  }
}

// Spans of any size at any address; bytes beside whole words count one by one.
void every_byte_once() {
  constexpr size_t kSizes[] = {0, 1, 7, 8, 129, 4096, (4 << 20) + 3};
  std::vector<std::vector<uint8_t>> held;
  std::vector<cg::Span> spans;
  uint64_t expected = 0;
  for (const size_t size : kSizes) {
    std::vector<uint8_t>& bytes = held.emplace_back(size + 1);
    for (size_t i = 0; i <= size; i++) bytes[i] = static_cast<uint8_t>(i * 31 + size);
    spans.push_back({bytes.data() + 1, size});
    size_t at = 1;
    for (; at + 8 <= size + 1; at += 8) {
      uint64_t word;
      std::memcpy(&word, bytes.data() + at, 8);
      expected += word;
    }
    for (; at < size + 1; at++) expected += bytes[at];
  }
  for (const int threads : {1, 3}) CHECK(cg::read_all(spans, threads) == expected, "%d threads", threads);
  CHECK(cg::read_all({}, 2) == 0, "nothing");
}

void every_pass_is_timed() {
  const cg::ReadBuffer buffer(8 << 20, 2);
  const std::vector<double> seconds = cg::time_reads(buffer.spans(), 2, 7);
  CHECK(seconds.size() == 7, "%zu", seconds.size());
  for (const double s : seconds) {
    // 8 MiB within a microsecond would be 8 TB/s: more than any machine, so it would not have been read.
    CHECK(s > 1e-6, "%g s", s);
  }
}

}  // namespace

int main() {
  for (const size_t size : {8u, 24u, 4096u, (2u << 20) - 8, 2u << 20, (4u << 20) + 40}) {
    for (const int threads : {1, 3}) every_word_once(size, threads);
  }
  every_byte_once();
  every_pass_is_timed();
  return test::report();
}
