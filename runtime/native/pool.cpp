#include "pool.h"

#include <chrono>

#include "kernels/kernels.h"

#if defined(CG_X86)
#include <immintrin.h>
#endif

namespace cg {
namespace {

// The gaps between the operations of one token are shorter than this; an idle program sleeps soon.
constexpr std::chrono::microseconds kSpin{100};
// Pauses between two looks at the clock or, for the caller, before it gives up its core.
constexpr int kPauses = 64;

void pause() {
#if defined(CG_X86)
  _mm_pause();
#elif defined(CG_ARM64) && defined(__GNUC__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) : runs_(static_cast<size_t>(threads)) {
  try {
    for (int i = 1; i < threads; i++) workers_.emplace_back(&ThreadPool::work, this, i);
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    round_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void ThreadPool::run(int64_t count, int runs, Task task, void* context) {
  if (workers_.empty() || count <= 1) {
    for (int64_t i = 0; i < count; i++) task(context, i, 0);
    return;
  }
  bool anyone_asleep;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    task_ = task;
    context_ = context;
    runs_used_ = runs;
    for (int i = 0; i < runs; i++) {
      Run& one = runs_[static_cast<size_t>(i)];
      one.next.store(count * i / runs, std::memory_order_relaxed);
      one.end = count * (i + 1) / runs;
    }
    open_ = true;
    anyone_asleep = sleeping_ > 0;
    round_.fetch_add(1, std::memory_order_release);
  }
  if (anyone_asleep) wake_.notify_all();
  drain(0);
  {
    // Whoever has not joined by now is not waited for: a worker without a core must not hold up the rest.
    std::lock_guard<std::mutex> lock(mutex_);
    open_ = false;
  }
  for (int spins = 0; joined_.load(std::memory_order_acquire) != 0;) {
    if (++spins < kPauses) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::drain(int thread) {
  for (int i = 0; i < runs_used_; i++) {
    Run& one = runs_[static_cast<size_t>((thread + i) % runs_used_)];
    for (;;) {
      const int64_t index = one.next.fetch_add(1, std::memory_order_relaxed);
      if (index >= one.end) break;
      task_(context_, index, thread);
    }
  }
}

void ThreadPool::work(int thread) {
  uint64_t seen = 0;
  for (;;) {
    const auto deadline = std::chrono::steady_clock::now() + kSpin;
    do {
      for (int i = 0; i < kPauses && round_.load(std::memory_order_acquire) == seen; i++) pause();
    } while (round_.load(std::memory_order_acquire) == seen && std::chrono::steady_clock::now() < deadline);
    {
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_++;
      wake_.wait(lock, [&] { return round_.load(std::memory_order_relaxed) != seen; });
      sleeping_--;
      seen = round_.load(std::memory_order_relaxed);
      if (stopping_) return;
      if (!open_) continue;
      joined_.fetch_add(1, std::memory_order_relaxed);
    }
    drain(thread);
    joined_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace cg
