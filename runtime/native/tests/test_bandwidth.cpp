// Measuring bandwidth: every word is read once, whatever the size and the number of threads.

#include "bandwidth.h"
#include "check.h"

namespace {

void every_word_once(size_t size, int threads) {
  const cg::ReadBuffer buffer(size, threads);
  const uint64_t n = size / 8, expected = n * (n - 1) / 2;
  CHECK(buffer.words() == static_cast<int64_t>(n), "%zu bytes", size);
  for (const int readers : {1, 2, 5}) {
    const uint64_t sum = buffer.read(readers);
    CHECK(sum == expected, "%zu bytes, %d threads: %llu, not %llu", size, readers, (unsigned long long)sum,
          (unsigned long long)expected);
  }
}

void every_pass_is_timed() {
  const std::vector<double> seconds = cg::time_reads(8 << 20, 2, 7);
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
  every_pass_is_timed();
  return test::report();
}
