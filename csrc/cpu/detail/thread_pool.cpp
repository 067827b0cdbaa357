#include "cpu/detail/thread_pool.h"

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include <unistd.h>

namespace jsarag::cpu {
namespace {

class Pool {
 public:
  // Grows to threads - 1 helpers; they sleep between jobs and live as long as the process.
  void run(int threads, const std::function<void(int)>& body) {
    const int helpers = threads - 1;
    while (static_cast<int>(helpers_.size()) < helpers) {
      const int worker = static_cast<int>(helpers_.size()) + 1;
      helpers_.emplace_back([this, worker] { serve(worker); });
    }
    {
      std::lock_guard<std::mutex> lock(mutex_);
      body_ = &body;
      wanted_ = helpers;
      pending_ = helpers;
      ++job_;
    }
    wake_.notify_all();
    body(0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return pending_ == 0; });
    body_ = nullptr;
  }

  std::mutex& in_use() { return in_use_; }

 private:
  void serve(int worker) {
    uint64_t seen = 0;
    for (;;) {
      const std::function<void(int)>* body = nullptr;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return job_ != seen; });
        seen = job_;
        if (worker > wanted_) continue;
        body = body_;
      }
      (*body)(worker);
      std::lock_guard<std::mutex> lock(mutex_);
      if (--pending_ == 0) done_.notify_one();
    }
  }

  std::mutex in_use_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> helpers_;
  const std::function<void(int)>* body_ = nullptr;
  int wanted_ = 0, pending_ = 0;
  uint64_t job_ = 0;
};

// Never destroyed: its threads may outlive static destructors. A forked child has none of the
// threads, so it starts a pool of its own.
Pool& pool() {
  static std::mutex guard;
  static Pool* current = nullptr;
  static pid_t owner = 0;
  std::lock_guard<std::mutex> lock(guard);
  if (current == nullptr || owner != getpid()) {
    current = new Pool();
    owner = getpid();
  }
  return *current;
}

}  // namespace

void parallel(int threads, const std::function<void(int)>& body) {
  if (threads <= 1) {
    body(0);
    return;
  }
  Pool& shared = pool();
  std::unique_lock<std::mutex> mine(shared.in_use(), std::try_to_lock);
  if (!mine.owns_lock()) {
    body(0);
    return;
  }
  shared.run(threads, body);
}

}  // namespace jsarag::cpu
