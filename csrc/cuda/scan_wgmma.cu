// Products of many queries with a wave of passages on Hopper: CUTLASS's TMA + wgmma main loop,
// warp-specialised and persistent, with detail/scan_epilogue.h in place of a store.
//
// Floor at B = 2048, N = 8M, D = 768 in bf16: 2 B N D = 25.2 TFLOP, at a matmul rate of 790
// TFLOP/s 32 ms. A 128 x 256 tile takes 12 steps of k, 50.3 MFLOP: 8.4 us of an SM. Its epilogue
// passes three times over 128 registers a lane (scale, compare, and with tile_lse an exponential
// each: 32768 at 16 a clock are 1.2 us): an estimated 1 us without tile_lse and 2.5 us with it, in
// which the tensor cores wait. Expected: 36 ms without and 42 ms with tile_lse, if nothing else
// waits; no run has confirmed either. Scores that pass the threshold are few: 3 k a query and
// wave in random order, six waves (detail/scan_waves.h). At k = 100 that is 30 MB written and 30 MB
// read over all, and 67 MB in the first wave, which keeps all 4096 scores of each query and is read
// again for each byte of the selection: about 0.1 ms at 4 TB/s.
#include "cuda/detail/scan_wgmma.h"

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "cuda/detail/hopper_tiles.h"
#include "cute/tensor.hpp"
#include "cutlass/cutlass.h"
#include "cutlass/device_kernel.h"
#include "cutlass/epilogue/collective/detail.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/gemm/kernel/tile_scheduler.hpp"

namespace jsarag::cuda {
namespace {

constexpr int kRowTile = 128;
using TileShape = cute::Shape<cute::Int<kRowTile>, cute::Int<kScanColumns>, cute::_64>;
using ClusterShape = cute::Shape<cute::_2, cute::_1, cute::_1>;
constexpr int kAlignment = 8;  // elements in the 16 bytes TMA wants rows to start on

template <class Element>
using MainLoop = typename cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, cutlass::layout::RowMajor,
    kAlignment, Element, cutlass::layout::ColumnMajor, kAlignment, float, TileShape, ClusterShape,
    cutlass::gemm::collective::StageCountAutoCarveout<0>,
    cutlass::gemm::KernelTmaWarpSpecializedCooperative>::CollectiveOp;

// What CUTLASS asks of an epilogue that keeps to registers: names, parameters, a call per tile.
class Epilogue {
 public:
  struct ThreadEpilogueOp {};
  using ElementC = void;
  using ElementD = float;  // never stored
  using StrideC = cute::Stride<int64_t, cute::_1, int64_t>;
  using StrideD = StrideC;
  struct SharedStorage {};
  using Arguments = ScanWave;
  using Params = ScanWave;

  template <class ProblemShape>
  static constexpr Params to_underlying_arguments(const ProblemShape&, const Arguments& arguments,
                                                  void*) {
    return arguments;
  }
  template <class ProblemShape>
  static size_t get_workspace_size(const ProblemShape&, const Arguments&) {
    return 0;
  }
  template <class ProblemShape>
  static bool can_implement(const ProblemShape&, const Arguments&) {
    return true;
  }

  CUTLASS_HOST_DEVICE explicit Epilogue(const Params& params) : params_(params) {}

  template <class ProblemShape, class BlockShape, class BlockCoord, class Engine, class Layout,
            class TiledMma, class Residue>
  CUTLASS_DEVICE void operator()(ProblemShape, BlockShape, BlockCoord block,
                                 cute::Tensor<Engine, Layout>& accumulators, TiledMma, Residue,
                                 int thread, char*) {
    // The order of registers that finish_scan_tile reads.
    using Expected =
        cute::Layout<cute::Shape<cute::Shape<cute::_2, cute::_2, cute::Int<kScanColumns / 8>>,
                                 cute::_1, cute::_1>,
                     cute::Stride<cute::Stride<cute::_1, cute::_2, cute::_4>, cute::_0, cute::_0>>;
    static_assert(cute::is_same_v<Layout, Expected>, "the accumulators' layout");
    // Each warp owns 16 rows of the tile, in order over the two warp groups.
    finish_scan_tile(accumulators.data(),
                     static_cast<int>(cute::get<0>(block)) * kRowTile + thread / 32 * 16,
                     static_cast<int>(cute::get<1>(block)) * kScanColumns, thread % 32, params_);
  }

 private:
  const Params& params_;
};

template <class Element>
using Gemm = cutlass::gemm::kernel::GemmUniversal<
    cute::Shape<int, int, int, int>, MainLoop<Element>,
    cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<Epilogue>,
    cutlass::gemm::PersistentScheduler>;

void require(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("scan: ") + what + ": " + cudaGetErrorString(status));
}

int attribute_of(int device, cudaDeviceAttr attribute) {
  int value = 0;
  require(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

template <class Element>
void launch_gemm(const ScanProduct& product, const ScanWave& wave, int device, void* stream) {
  using Kernel = Gemm<Element>;
  typename Kernel::Arguments arguments;
  arguments.mode = cutlass::gemm::GemmUniversalMode::kGemm;
  arguments.problem_shape = {wave.queries, wave.count, product.width, 1};
  arguments.mainloop.ptr_A = static_cast<const Element*>(product.queries);
  arguments.mainloop.dA = {product.query_stride, cute::_1{}, 0};
  arguments.mainloop.ptr_B = static_cast<const Element*>(product.passages);
  arguments.mainloop.dB = {product.passage_stride, cute::_1{}, 0};
  arguments.epilogue = wave;
  arguments.hw_info.device_id = device;
  arguments.hw_info.sm_count = attribute_of(device, cudaDevAttrMultiProcessorCount);
  // All queries go by before the next passages, which are so read from memory once.
  arguments.scheduler.max_swizzle_size = swizzle_for((wave.queries + kRowTile - 1) / kRowTile);
  arguments.scheduler.raster_order = cutlass::gemm::kernel::detail::RasterOrderOptions::AlongM;

  typename Kernel::Params params = Kernel::to_underlying_arguments(arguments, nullptr);
  const void* kernel = reinterpret_cast<const void*>(&cutlass::device_kernel<Kernel>);
  require(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               Kernel::SharedStorageSize),
          "shared memory of the wgmma kernel");
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = cute::size<0>(ClusterShape{});
  cluster.val.clusterDim.y = cute::size<1>(ClusterShape{});
  cluster.val.clusterDim.z = cute::size<2>(ClusterShape{});
  cudaLaunchConfig_t config{};
  config.gridDim = Kernel::get_grid_shape(params);
  config.blockDim = Kernel::get_block_shape();
  config.dynamicSmemBytes = Kernel::SharedStorageSize;
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &cluster;
  config.numAttrs = 1;
  void* pointers[] = {&params};
  require(cudaLaunchKernelExC(&config, kernel, pointers), "launch of the wgmma kernel");
}

bool aligned(const void* address, int64_t stride) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0 && stride % kAlignment == 0;
}

}  // namespace

bool scan_wgmma_fits(const ScanProduct& product, int device) {
  return (product.type == ScalarType::bf16 || product.type == ScalarType::f16) &&
         product.width > 0 && product.query_stride % kAlignment == 0 &&
         aligned(product.passages, product.passage_stride) &&
         attribute_of(device, cudaDevAttrComputeCapabilityMajor) == 9 &&
         attribute_of(device, cudaDevAttrComputeCapabilityMinor) == 0;
}

void launch_scan_wgmma(const ScanProduct& product, const ScanWave& wave, int device, void* stream) {
  if (product.type == ScalarType::bf16)
    launch_gemm<cutlass::bfloat16_t>(product, wave, device, stream);
  else
    launch_gemm<cutlass::half_t>(product, wave, device, stream);
}

}  // namespace jsarag::cuda
