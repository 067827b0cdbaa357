// The one thread pool of the CPU kernels. OpenMP is left out: torch brings its own runtime, and two
// of them in one process oversubscribe the cores.
#pragma once

#include <functional>

namespace jsarag::cpu {

// Calls body(worker) for worker = 0 .. threads-1, once each, and returns when all have returned.
// The caller is worker 0. `body` must share out the work itself (an atomic counter), must not
// throw, and its result must not depend on how many workers there are: a call that finds the pool
// busy (another Python thread is inside a kernel) runs with the caller alone.
void parallel(int threads, const std::function<void(int worker)>& body);

}  // namespace jsarag::cpu
