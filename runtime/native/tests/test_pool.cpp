// The team of threads: every index once, any count, fast and slow successions, clean ends.

#include <chrono>

#include "check.h"
#include "pool.h"

namespace {

void every_index_once(int threads) {
  cg::ThreadPool pool(threads);
  CHECK(pool.threads() == threads, "%d", pool.threads());
  for (int64_t round = 0; round < 300; round++) {
    const int64_t count = round * 7 % 41;
    std::vector<std::atomic<int>> seen(static_cast<size_t>(count));
    std::atomic<int> bad_thread{0};
    auto task = [&](int64_t i, int thread) {
      seen[static_cast<size_t>(i)]++;
      if (thread < 0 || thread >= threads) bad_thread++;
    };
    if (round % 2 == 0) {
      pool.for_each(count, task);
    } else {
      pool.for_runs(count, task);
    }
    for (int64_t i = 0; i < count; i++) {
      CHECK(seen[static_cast<size_t>(i)] == 1, "index %lld of %lld", (long long)i, (long long)count);
    }
    CHECK(bad_thread == 0, "thread numbers");
  }
}

// Workers that sleep between two rounds wake for the next, and one thread's number is used by one at a time.
void sleepers_wake() {
  cg::ThreadPool pool(4);
  for (int round = 0; round < 20; round++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::atomic<int> busy[4] = {};
    std::atomic<int> clashes{0};
    auto task = [&](int64_t, int thread) {
      if (busy[thread].fetch_add(1) != 0) clashes++;
      std::this_thread::sleep_for(std::chrono::microseconds(200));
      busy[thread].fetch_sub(1);
    };
    pool.for_each(12, task);
    CHECK(clashes == 0, "round %d", round);
  }
}

// In runs, threads begin with neighbouring indices, and whoever is done helps the others.
void runs_are_neighbours() {
  constexpr int kThreads = 3;
  constexpr int64_t kFirst = 5;
  cg::ThreadPool pool(kThreads);
  std::atomic<int64_t> first[kThreads];
  for (auto& index : first) index = -1;
  std::atomic<int> waiting{kThreads};
  // Nobody gets past its first index before everybody has one.
  auto meet = [&](int64_t i, int thread) {
    if (first[thread] >= 0) return;
    first[thread] = i;
    waiting--;
    while (waiting > 0) std::this_thread::yield();
  };
  pool.for_runs(kThreads * kFirst, meet);
  for (int thread = 0; thread < kThreads; thread++)
    CHECK(first[thread] == thread * kFirst, "%d began with %lld", thread, (long long)first[thread]);
  std::atomic<int64_t> others_done{0};
  // Thread 0 stays in its first index until all others are done: the rest of its run is left to helpers.
  auto hold = [&](int64_t i, int) {
    if (i != 0) {
      others_done++;
      return;
    }
    while (others_done < kThreads * kFirst - 1) std::this_thread::yield();
  };
  pool.for_runs(kThreads * kFirst, hold);
  CHECK(others_done == kThreads * kFirst - 1, "%lld", (long long)others_done);
}

// What the tasks wrote without any synchronization of their own is there afterwards.
void results_are_visible() {
  cg::ThreadPool pool(3);
  std::vector<int64_t> values(1000);
  for (int64_t round = 1; round <= 200; round++) {
    auto task = [&](int64_t i, int) { values[static_cast<size_t>(i)] += i * round; };
    pool.for_each(1000, task);
  }
  for (int64_t i = 0; i < 1000; i++)
    CHECK(values[static_cast<size_t>(i)] == i * 200 * 201 / 2, "%lld", (long long)i);
}

}  // namespace

int main() {
  for (const int threads : {1, 2, 3, 8}) every_index_once(threads);
  for (int i = 0; i < 50; i++) cg::ThreadPool pool(1 + i % 5);
  sleepers_wake();
  runs_are_neighbours();
  results_are_visible();
  return test::report();
}
