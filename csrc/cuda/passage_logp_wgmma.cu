// passage_logp's products on Hopper: CUTLASS's TMA + wgmma main loop, warp-specialised and
// persistent, with the epilogues of detail/passage_logp_epilogue.h in place of a store.
//
// Floor of the forward pass at H = 4096, V = 131072, T = 8192 in bf16: 2 T V H = 8.8 TFLOP. At a
// matmul rate of 790 TFLOP/s that is 11.1 ms. It reads the weight once, 1.07 GB, and hidden from
// the second-level cache: 0.3 ms at 4.3 TB/s, hidden behind the products. A 128 x 256 tile takes
// 64 steps of k, about 45 us of an SM; its epilogue (32768 exponentials at 16 a clock, about four
// more instructions each at 128 a clock) 1.5 to 2 us, in which the tensor cores wait: 4 %.
// Expected: 12 to 13 ms, 85 to 90 % of the matmul rate. Partials are 8 T V / 256 bytes, 33.5 MB,
// against the 2.1 GB of bf16 logits.
//
// The backward pass makes each chunk's products again (11.1 ms in all) and stores their gradient,
// 2.1 GB in all; the two products that read it are 22.2 ms more at the same rate. Expected: 36 to
// 40 ms.
#include "cuda/detail/passage_logp_wgmma.h"

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

namespace jsarag::cuda::passage_logp {
namespace {

using Element = cutlass::bfloat16_t;
using Rows = cutlass::layout::RowMajor;
using Columns = cutlass::layout::ColumnMajor;
constexpr int kRowTile = 128;
// Two consumer warp groups of 64 rows each share a tile; two CTAs share what they read of the
// words. Both are what CUTLASS's own profile of large bf16 products favours.
using TileShape = cute::Shape<cute::Int<kRowTile>, cute::Int<kWgmmaTile>, cute::_64>;
using ClusterShape = cute::Shape<cute::_2, cute::_1, cute::_1>;
constexpr int kAlignment = 8;  // elements in the 16 bytes TMA wants rows to start on
constexpr int kColumnGroups = kWgmmaTile / 8;

using MainLoop = typename cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, Rows, kAlignment, Element,
    Columns, kAlignment, float, TileShape, ClusterShape,
    cutlass::gemm::collective::StageCountAutoCarveout<0>,
    cutlass::gemm::KernelTmaWarpSpecializedCooperative>::CollectiveOp;

// What CUTLASS asks of an epilogue that keeps to registers: names, parameters, a call per tile.
template <class Output>
class Epilogue {
 public:
  struct ThreadEpilogueOp {};
  using ElementC = void;
  using ElementD = float;  // never stored
  using StrideC = cute::Stride<int64_t, cute::_1, int64_t>;
  using StrideD = StrideC;
  struct SharedStorage {};
  using Arguments = Output;
  using Params = Output;

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
    // The fragment's order of registers, as MmaFragment reads them.
    using Expected = cute::Layout<
        cute::Shape<cute::Shape<cute::_2, cute::_2, cute::Int<kColumnGroups>>, cute::_1, cute::_1>,
        cute::Stride<cute::Stride<cute::_1, cute::_2, cute::_4>, cute::_0, cute::_0>>;
    static_assert(cute::is_same_v<Layout, Expected>, "the accumulators' layout");
    // Each warp owns 16 rows of the tile, in order over the two warp groups.
    const int row = static_cast<int>(cute::get<0>(block)) * kRowTile + thread / 32 * 16;
    finish_tile<FastExp>(MmaFragment<kColumnGroups>{accumulators.data(), row, thread % 32}, params_,
                         static_cast<int>(cute::get<1>(block)));
  }

 private:
  const Params& params_;
};

template <class Output>
using Gemm = cutlass::gemm::kernel::GemmUniversal<
    cute::Shape<int, int, int, int>, MainLoop,
    cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<Epilogue<Output>>,
    cutlass::gemm::PersistentScheduler>;

void require(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string("passage_logp: ") + what + ": " +
                           cudaGetErrorString(status));
}

int attribute_of(int device, cudaDeviceAttr attribute) {
  int value = 0;
  require(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}

template <class Output>
void launch_gemm(const Product& product, const Output& to, int device, void* stream) {
  using Kernel = Gemm<Output>;
  typename Kernel::Arguments arguments;
  arguments.mode = cutlass::gemm::GemmUniversalMode::kGemm;
  arguments.problem_shape = {product.rows, product.columns, product.width, 1};
  arguments.mainloop.ptr_A = static_cast<const Element*>(product.left);
  arguments.mainloop.dA = {product.left_stride, cute::_1{}, 0};
  arguments.mainloop.ptr_B = static_cast<const Element*>(product.right);
  arguments.mainloop.dB = {product.right_stride, cute::_1{}, 0};
  arguments.epilogue = to;
  arguments.hw_info.device_id = device;
  arguments.hw_info.sm_count = attribute_of(device, cudaDevAttrMultiProcessorCount);
  // Eight tiles of words at a time go over all rows: a wave of CTAs then reads about 17 MB of
  // hidden and 17 MB of weight, and leaves hidden in the second-level cache for the next.
  arguments.scheduler.max_swizzle_size = swizzle_for((product.rows + kRowTile - 1) / kRowTile);
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

}  // namespace

bool wgmma_fits(const Product& product, int device) {
  return product.aligned && product.width % kAlignment == 0 &&
         attribute_of(device, cudaDevAttrComputeCapabilityMajor) == 9 &&
         attribute_of(device, cudaDevAttrComputeCapabilityMinor) == 0;
}

void launch_wgmma(const Product& product, const ForwardOutput& to, int device, void* stream) {
  launch_gemm(product, to, device, stream);
}

void launch_wgmma(const Product& product, const BackwardOutput& to, int device, void* stream) {
  launch_gemm(product, to, device, stream);
}

}  // namespace jsarag::cuda::passage_logp
