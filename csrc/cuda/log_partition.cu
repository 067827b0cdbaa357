// log_partition on the GPU: the tile masses of a scan, added up; and its gradient, one more
// streaming pass (detail/partition_gradient.h says how).
#include "jsarag/log_partition.h"

#include <cstdint>

#include "cuda/detail/launch.h"
#include "cuda/detail/partition_gradient_mma.h"
#include "cuda/detail/partition_gradient_simt.h"
#include "cuda/detail/scratch.h"
#include "cuda/detail/simt.h"
#include "cuda/detail/tile_mass.h"

namespace jsarag {
namespace cuda {
namespace {

__global__ void __launch_bounds__(kMassThreads)
    sum_tiles_kernel(const float* tile_lse, int64_t tiles, float* lse) {
  __shared__ double numbers[kMassThreads];
  __shared__ int nan;
  const int thread = static_cast<int>(threadIdx.x);
  const float* log_mass = tile_lse + blockIdx.x * tiles;
  const MassPeak found = row_peak(log_mass, tiles, numbers, &nan);
  const double peak = found.peak;
  float result = found.nan ? kNan : static_cast<float>(peak);
  if (!found.nan && peak != kInfinity && peak != -kInfinity) {
    __syncthreads();
    double sum = 0.0;
    for (int64_t t = thread; t < tiles; t += kMassThreads)
      sum += exp(static_cast<double>(log_mass[t]) - peak);
    numbers[thread] = sum;
    __syncthreads();
    for (int half = kMassThreads / 2; half > 0; half /= 2) {
      if (thread < half) numbers[thread] += numbers[thread + half];
      __syncthreads();
    }
    result = static_cast<float>(peak + log(numbers[0]));
  }
  if (thread == 0) lse[blockIdx.x] = result;
}

// Queries as the f32 kernel reads them: rows of whole slabs, zeros where nothing is.
__global__ void __launch_bounds__(kGradientThreads)
    pad_queries_kernel(GradientWork work, const float* queries, float* packed) {
  const int64_t width = work.slabs * work.slab_width;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kGradientThreads + threadIdx.x;
  if (at >= work.groups * work.group_queries * width) return;
  const int64_t query = at / width, column = at % width;
  packed[at] =
      query < work.batch && column < work.width ? queries[query * work.width + column] : 0.0f;
}

// The splits' sums in order, times what the caller's gradient and the temperature say.
__global__ void __launch_bounds__(kGradientThreads)
    add_splits_kernel(GradientWork work, const float* grad, float* gradient) {
  const int64_t total = work.batch * work.width;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kGradientThreads + threadIdx.x;
  if (at >= total) return;
  double sum = 0.0;
#pragma unroll 4
  for (int64_t s = 0; s < work.splits; ++s) sum += work.partial[s * total + at];
  const double factor =
      static_cast<double>(grad[at / work.width]) * static_cast<double>(work.inv_temperature);
  gradient[at] = static_cast<float>(factor * sum);
}

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>(ceil_div(threads, kGradientThreads));
}

// f32 rows are summed in f32 arithmetic, narrower ones on tensor cores.
bool on_tensor_cores(ScalarType type) { return type != ScalarType::f32; }

GradientWork gradient_work(const LogPartitionBackwardParams& p) {
  GradientWork work{};
  work.rows = static_cast<const char*>(p.passages.data);
  work.row_bytes = p.passages.row_bytes;
  work.scales = p.passages.scales;
  work.passages = p.passages.count;
  work.width = p.queries.width;
  work.batch = p.queries.count;
  work.exclude = p.exclude.ids;
  work.per_query = p.exclude.ids ? p.exclude.per_query : 0;
  work.inv_temperature = p.inv_temperature;
  work.lse = p.lse;
  work.aligned = reinterpret_cast<uintptr_t>(work.rows) % 16 == 0 && work.row_bytes % 16 == 0;
  if (on_tensor_cores(p.passages.type))
    cut_gradient(work, kMmaQueries, kMmaWidths, mma_widths(p.passages.type));
  else
    cut_gradient(work, kSimtQueries, kSimtWidths, 4);
  return work;
}

// Gives queries and partial sums their places.
void place(GradientWork& work, ScalarType type, Scratch& scratch) {
  const int64_t numbers = work.groups * work.group_queries * work.slabs * work.slab_width;
  const int64_t parts = query_parts(type);
  if (on_tensor_cores(type))
    work.queries = scratch.take<QueryFragment>(parts * numbers / kFragmentNumbers);
  else
    work.queries = scratch.take<float>(numbers);
  work.partial = scratch.take<double>(work.splits * work.batch * work.width);
}

template <class Kernel, class... Rest>
void launch_sum(Kernel kernel, size_t shared_bytes, const GradientWork& work, const CudaCall& call,
                Rest... rest) {
  launch("log_partition_backward: sum", kernel,
         LaunchShape{static_cast<unsigned>(work.groups * work.slabs * work.splits),
                     kGradientThreads, shared_bytes},
         call.stream, work, rest...);
}

template <ScalarType kType, int kBlocks>
void sum_with_mma(const GradientWork& work, const CudaCall& call) {
  using Shape = MmaGradient<kType, kBlocks>;
  const size_t limit = shared_memory_limit(call.device);
  int stages = kMostStages;
  while (stages > 1 && Shape::bytes(stages) > limit) --stages;
  launch_sum(gradient_mma_kernel<kType, kBlocks>, Shape::bytes(stages), work, call, stages);
}

template <ScalarType kType>
void sum_with_mma(const GradientWork& work, const float* queries, const CudaCall& call) {
  const int64_t fragments =
      work.groups * work.group_queries * work.slabs * work.slab_width / kFragmentNumbers;
  launch("log_partition_backward: pack queries", pack_queries_kernel<kType>,
         LaunchShape{blocks_for(fragments), kGradientThreads, 0}, call.stream, work, queries,
         static_cast<QueryFragment*>(work.queries));
  // Kernels of widths that the type never gets are not compiled.
  constexpr int64_t kWidths = mma_widths(kType);
  switch (work.slab_width) {
    case 256:
      return sum_with_mma<kType, 4>(work, call);
    case 384:
      return sum_with_mma<kType, 6>(work, call);
    case 512:
      return sum_with_mma<kType, 8>(work, call);
    case 768:
      if constexpr (kWidths > 3) return sum_with_mma<kType, 12>(work, call);
      break;
    case 1024:
      if constexpr (kWidths > 4) return sum_with_mma<kType, 16>(work, call);
      break;
  }
}

void sum_with_simt(const GradientWork& work, const float* queries, const CudaCall& call) {
  auto* packed = static_cast<float*>(work.queries);
  const int64_t numbers = work.groups * work.group_queries * work.slabs * work.slab_width;
  launch("log_partition_backward: pad queries", pad_queries_kernel,
         LaunchShape{blocks_for(numbers), kGradientThreads, 0}, call.stream, work, queries, packed);
  switch (work.slab_width) {
    case 256:
      return launch_sum(gradient_simt_kernel<1>, sizeof(SimtGradient<1>::Shared), work, call);
    case 512:
      return launch_sum(gradient_simt_kernel<2>, sizeof(SimtGradient<2>::Shared), work, call);
    case 768:
      return launch_sum(gradient_simt_kernel<3>, sizeof(SimtGradient<3>::Shared), work, call);
    default:
      return launch_sum(gradient_simt_kernel<4>, sizeof(SimtGradient<4>::Shared), work, call);
  }
}

// The scan that log_partition is made of: tile masses alone.
ScanParams mass_scan(const LogPartitionParams& p, float* tile_lse) {
  ScanParams scan{};
  scan.queries = p.queries;
  scan.passages = p.passages;
  scan.exclude = p.exclude;
  scan.inv_temperature = p.inv_temperature;
  scan.threads = p.threads;
  scan.tile_lse = tile_lse;
  return scan;
}

float* place(const LogPartitionParams& p, Scratch& scratch) {
  return scratch.take<float>(p.queries.count * ceil_div(p.passages.count, kTile));
}

}  // namespace
}  // namespace cuda

size_t log_partition_cuda_scratch(const LogPartitionParams& p, int device) {
  using namespace cuda;
  Scratch scratch(nullptr);
  place(p, scratch);
  // Asked for, wherever it will be.
  float somewhere = 0.0f;
  scratch.take<char>(static_cast<int64_t>(scan_cuda_scratch(mass_scan(p, &somewhere), device)));
  return scratch.used();
}

void log_partition_cuda(const LogPartitionParams& p, const CudaCall& call) {
  using namespace cuda;
  if (p.queries.count == 0) return;
  const DeviceGuard guard(call.device);
  Scratch scratch(call.scratch);
  float* tile_lse = place(p, scratch);
  const int64_t tiles = ceil_div(p.passages.count, kTile);
  if (tiles > 0) {
    const ScanParams scan = mass_scan(p, tile_lse);
    CudaCall inner = call;
    inner.scratch_bytes = scan_cuda_scratch(scan, call.device);
    inner.scratch = scratch.take<char>(static_cast<int64_t>(inner.scratch_bytes));
    scratch.require(call.scratch_bytes, "log_partition");
    scan_cuda(scan, inner);
  }
  launch("log_partition: sum tiles", sum_tiles_kernel,
         LaunchShape{static_cast<unsigned>(p.queries.count), kMassThreads, 0}, call.stream,
         static_cast<const float*>(tile_lse), tiles, p.lse);
}

size_t log_partition_backward_cuda_scratch(const LogPartitionBackwardParams& p) {
  using namespace cuda;
  GradientWork work = gradient_work(p);
  Scratch scratch(nullptr);
  place(work, p.passages.type, scratch);
  return scratch.used();
}

void log_partition_backward_cuda(const LogPartitionBackwardParams& p, const CudaCall& call) {
  using namespace cuda;
  if (p.queries.count == 0 || p.queries.width == 0) return;
  const DeviceGuard guard(call.device);
  GradientWork work = gradient_work(p);
  Scratch scratch(call.scratch);
  place(work, p.passages.type, scratch);
  scratch.require(call.scratch_bytes, "log_partition_backward");
  if (work.splits > 0) {
    switch (p.passages.type) {
      case ScalarType::f32:
        sum_with_simt(work, p.queries.data, call);
        break;
      case ScalarType::bf16:
        sum_with_mma<ScalarType::bf16>(work, p.queries.data, call);
        break;
      case ScalarType::f16:
        sum_with_mma<ScalarType::f16>(work, p.queries.data, call);
        break;
      case ScalarType::i8:
        sum_with_mma<ScalarType::i8>(work, p.queries.data, call);
        break;
    }
  }
  launch("log_partition_backward: add splits", add_splits_kernel,
         LaunchShape{blocks_for(work.batch * work.width), kGradientThreads, 0}, call.stream, work,
         p.grad, p.gradient);
}

}  // namespace jsarag
