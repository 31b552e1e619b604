// A persistent team of threads. Idle workers spin for a moment, so that the next operation of a token
// finds them awake, and then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace cg {

class ThreadPool {
 public:
  // The calling thread is one of `threads`. Throws std::system_error if the system refuses a thread.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls f(index, thread) for every index below `count`, thread in 0 .. threads() - 1, and returns when all
  // are done. f must not throw. One caller at a time; not from within f. Indices are begun in order.
  template <class F>
  void for_each(int64_t count, F& f) {
    run(count, 1, &call<F>, &f);
  }

  // The same, but every thread goes through neighbouring indices, a run of them, and helps with the runs of
  // others when it is done: for pieces that read memory in order.
  template <class F>
  void for_runs(int64_t count, F& f) {
    run(count, threads(), &call<F>, &f);
  }

 private:
  using Task = void (*)(void* context, int64_t index, int thread);

  // Indices that one thread after the other takes; a cache line each, as different threads change them.
  struct alignas(64) Run {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  template <class F>
  static void call(void* context, int64_t index, int thread) {
    (*static_cast<F*>(context))(index, thread);
  }

  void run(int64_t count, int runs, Task task, void* context);
  void work(int thread);
  void drain(int thread);
  void stop();

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  // Changed under the mutex; the round is also watched without it.
  std::atomic<uint64_t> round_{0};
  bool open_ = false;  // whether workers may still join the round
  bool stopping_ = false;
  int sleeping_ = 0;
  // The round's work, written before it opens.
  Task task_ = nullptr;
  void* context_ = nullptr;
  int runs_used_ = 0;
  std::vector<Run> runs_;
  std::atomic<int> joined_{0};
};

}  // namespace cg
