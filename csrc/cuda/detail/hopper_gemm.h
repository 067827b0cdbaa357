// A matrix product on Hopper whose result is never stored: CUTLASS's TMA + wgmma main loop,
// warp-specialised and persistent, with an epilogue of ours that takes tiles while they are in
// registers. Included by the *_wgmma.cu alone: it needs CUTLASS, and compute capability 9.0.
//
// A tile is 128 x 256, by two consumer warp groups of 64 rows each, and two CTAs share what they
// read of the columns' side; both are what CUTLASS's own profile of large bf16 products favours.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/detail/hopper_tiles.h"
#include "cuda/detail/launch.h"
#include "cute/tensor.hpp"
#include "cutlass/cutlass.h"
#include "cutlass/device_kernel.h"
#include "cutlass/epilogue/collective/detail.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/gemm/kernel/tile_scheduler.hpp"

namespace jsarag::cuda {

constexpr int kHopperRows = 128, kHopperColumns = 256;  // of a tile
constexpr int kHopperAlignment = 8;  // elements in the 16 bytes TMA wants rows to start on

// Whether the device is the one these kernels are compiled for.
inline bool on_hopper(int device) {
  const auto attribute_of = [&](cudaDeviceAttr attribute) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
    return value;
  };
  return attribute_of(cudaDevAttrComputeCapabilityMajor) == 9 &&
         attribute_of(cudaDevAttrComputeCapabilityMinor) == 0;
}

// left [rows, width] times right [columns, width] transposed; strides in elements.
struct HopperProduct {
  const void* left;
  int64_t left_stride;
  const void* right;
  int64_t right_stride;
  int rows, columns, width;
};

// What CUTLASS asks of an epilogue that keeps to registers: names, parameters, a call per tile.
// `Output` has finish(registers, row, column tile, lane): the first row of the warp's 16, and the
// registers as PTX says that wgmma m64n256k16 leaves them.
template <class Output>
class HopperEpilogue {
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

  CUTLASS_HOST_DEVICE explicit HopperEpilogue(const Params& params) : params_(params) {}

  template <class ProblemShape, class BlockShape, class BlockCoord, class Engine, class Layout,
            class TiledMma, class Residue>
  CUTLASS_DEVICE void operator()(ProblemShape, BlockShape, BlockCoord block,
                                 cute::Tensor<Engine, Layout>& accumulators, TiledMma, Residue,
                                 int thread, char*) {
    using Expected =
        cute::Layout<cute::Shape<cute::Shape<cute::_2, cute::_2, cute::Int<kHopperColumns / 8>>,
                                 cute::_1, cute::_1>,
                     cute::Stride<cute::Stride<cute::_1, cute::_2, cute::_4>, cute::_0, cute::_0>>;
    static_assert(cute::is_same_v<Layout, Expected>, "the accumulators' layout");
    // Each warp owns 16 rows of the tile, in order over the two warp groups.
    params_.finish(accumulators.data(),
                   static_cast<int>(cute::get<0>(block)) * kHopperRows + thread / 32 * 16,
                   static_cast<int>(cute::get<1>(block)), thread % 32);
  }

 private:
  const Params& params_;
};

// Queues the product; `name` is the op's, for errors. Groups of up to eight tiles of columns go
// over all rows, so that the columns' side is read from memory once and the rows' side stays in the
// second-level cache.
template <class Element, class Output>
void launch_hopper_gemm(const char* name, const HopperProduct& product, const Output& to,
                        int device, void* stream) {
  using TileShape = cute::Shape<cute::Int<kHopperRows>, cute::Int<kHopperColumns>, cute::_64>;
  using ClusterShape = cute::Shape<cute::_2, cute::_1, cute::_1>;
  using MainLoop = typename cutlass::gemm::collective::CollectiveBuilder<
      cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, cutlass::layout::RowMajor,
      kHopperAlignment, Element, cutlass::layout::ColumnMajor, kHopperAlignment, float, TileShape,
      ClusterShape, cutlass::gemm::collective::StageCountAutoCarveout<0>,
      cutlass::gemm::KernelTmaWarpSpecializedCooperative>::CollectiveOp;
  using Kernel = cutlass::gemm::kernel::GemmUniversal<
      cute::Shape<int, int, int, int>, MainLoop,
      cutlass::epilogue::collective::detail::Sm90TmaWarpSpecializedAdapter<HopperEpilogue<Output>>,
      cutlass::gemm::PersistentScheduler>;
  typename Kernel::Arguments arguments;
  arguments.mode = cutlass::gemm::GemmUniversalMode::kGemm;
  arguments.problem_shape = {product.rows, product.columns, product.width, 1};
  arguments.mainloop.ptr_A = static_cast<const Element*>(product.left);
  arguments.mainloop.dA = {product.left_stride, cute::_1{}, 0};
  arguments.mainloop.ptr_B = static_cast<const Element*>(product.right);
  arguments.mainloop.dB = {product.right_stride, cute::_1{}, 0};
  arguments.epilogue = to;
  arguments.hw_info.device_id = device;
  arguments.hw_info.sm_count = multiprocessors(device);
  arguments.scheduler.max_swizzle_size =
      swizzle_for((product.rows + kHopperRows - 1) / kHopperRows);
  arguments.scheduler.raster_order = cutlass::gemm::kernel::detail::RasterOrderOptions::AlongM;

  typename Kernel::Params params = Kernel::to_underlying_arguments(arguments, nullptr);
  const void* kernel = reinterpret_cast<const void*>(&cutlass::device_kernel<Kernel>);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             Kernel::SharedStorageSize),
        name);
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
  check(cudaLaunchKernelExC(&config, kernel, pointers), name);
}

}  // namespace jsarag::cuda
