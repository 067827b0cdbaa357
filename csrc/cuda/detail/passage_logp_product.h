// passage_logp's products on any GPU: tiles of left * right^T in registers, which an epilogue
// (detail/passage_logp_epilogue.h) finishes; the products are never stored.
//
//   bf16  128 x 128 by eight warps of 32 x 64, mma.sync, two stages of 64 columns; two blocks per
//         multiprocessor hide each other's barriers and epilogues. A stage's step of 16 columns
//         reads 3 KiB of shared memory per warp for 65536 multiply-adds: 24 of the 32 clocks that
//         an sm_80 multiprocessor's tensor cores take for them.
//   f32   128 x 128 by 16 x 16 threads of 8 x 8 numbers, fused multiply-adds in the order of the
//         columns. Never TF32: f32 inputs keep f32's precision.
//
// On Hopper bf16 goes through detail/passage_logp_wgmma.h where its operands allow.
#pragma once

#include <cstdint>

#include "cuda/detail/passage_logp_epilogue.h"
#include "cuda/detail/ptx.h"
#include "cuda/detail/simt.h"
#include "cuda/detail/swizzle.h"

namespace jsarag::cuda::passage_logp {

// left [rows, width] times right [columns, width] transposed.
struct Product {
  const void* left;
  int64_t left_stride;  // in elements, like right_stride
  const void* right;
  int64_t right_stride;
  int rows, columns, width;
  bool aligned;  // rows of both start on 16 bytes
};

constexpr int kBlockRows = 128, kBlockColumns = 128;
constexpr int kBlockThreads = 256;

// Which tile a block makes: groups of columns go over all rows, so that what a wave of blocks reads
// of either side is shared in the second-level cache.
struct BlockTile {
  int row, column;  // numbers of tiles
};
JSARAG_HOST_DEVICE inline BlockTile block_tile(unsigned block, unsigned row_tiles,
                                               unsigned column_tiles) {
  constexpr unsigned kGroup = 8;
  const unsigned group = block / (kGroup * row_tiles), inside = block % (kGroup * row_tiles);
  const unsigned left = column_tiles - group * kGroup;
  const unsigned columns = left < kGroup ? left : kGroup;
  return {static_cast<int>(inside / columns), static_cast<int>(group * kGroup + inside % columns)};
}

// How much of a side is left from a tile's first row or a chunk's first column on.
__device__ inline int rest(int whole, int begin) {
  const int left = whole - begin;
  return left < 0 ? 0 : left;
}

// A tile's corners in both sides, and how many of its rows and columns there are.
template <class T>
struct TileCorners {
  const T* left;
  const T* right;
  int left_rows, right_rows;

  __device__ TileCorners(const Product& product, int first_row, int first_column)
      : left(static_cast<const T*>(product.left) + first_row * product.left_stride),
        right(static_cast<const T*>(product.right) + first_column * product.right_stride),
        left_rows(rest(product.rows, first_row)),
        right_rows(rest(product.columns, first_column)) {}
};

// ---- bf16 ----

constexpr int kMmaColumns = 64;  // of a warp: the unit of ForwardOutput::partials
constexpr int kMmaChunk = kSwizzledBytes / 2;
constexpr int kMmaSideBytes = kBlockRows * kSwizzledBytes;
constexpr int kMmaStages = 2;
constexpr size_t kMmaSharedBytes = kMmaStages * 2 * kMmaSideBytes;
static_assert(kBlockRows == kBlockColumns, "both sides' stages have one size");

// Begins to bring a chunk of 64 columns of 128 rows from `from`, the tile's corner in that chunk;
// what lies beyond `rows` and `columns` becomes zero.
__device__ inline void load_mma_side(char* to, const uint16_t* from, int64_t stride, int rows,
                                     int columns, bool aligned) {
  constexpr int kStep = kBlockThreads / kSwizzledPieces;  // rows that the block brings at once
  const int row = static_cast<int>(threadIdx.x) / kSwizzledPieces;
  const int piece = static_cast<int>(threadIdx.x) % kSwizzledPieces;
  const int left = columns - piece * 8;
  const uint16_t* source = from + row * stride + piece * 8;
#pragma unroll
  for (int i = 0; i < kBlockRows / kStep; ++i, source += kStep * stride) {
    char* at = to + piece_offset(row + i * kStep, piece);
    const bool there = row + i * kStep < rows;
    if (aligned && there && left >= 8) {
      cp_async_16(at, source);
      continue;
    }
    FourWords numbers;
#pragma unroll
    for (int pair = 0; pair < 4; ++pair)
      numbers.word[pair] =
          (there && left > 2 * pair ? source[2 * pair] : 0u) |
          (there && left > 2 * pair + 1 ? static_cast<uint32_t>(source[2 * pair + 1]) << 16 : 0u);
    *reinterpret_cast<FourWords*>(at) = numbers;
  }
}

template <class Output>
__global__ void __launch_bounds__(kBlockThreads, 2)
    mma_product_kernel(Product product, Output to, unsigned row_tiles, unsigned column_tiles) {
  char* shared = dynamic_shared<char>();
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const BlockTile block = block_tile(blockIdx.x, row_tiles, column_tiles);
  const int first_row = block.row * kBlockRows;
  const int first_column = block.column * kBlockColumns;
  const int warp_row = warp % 4 * 32, warp_column = warp / 4 * kMmaColumns;
  const int chunks = (product.width + kMmaChunk - 1) / kMmaChunk;
  const TileCorners<uint16_t> corners(product, first_row, first_column);
  const auto load = [&](int chunk) {
    char* stage = shared + chunk % kMmaStages * 2 * kMmaSideBytes;
    const int column = chunk * kMmaChunk;
    const int columns = rest(product.width, column);
    load_mma_side(stage, corners.left + column, product.left_stride, corners.left_rows, columns,
                  product.aligned);
    load_mma_side(stage + kMmaSideBytes, corners.right + column, product.right_stride,
                  corners.right_rows, columns, product.aligned);
    cp_async_commit();
  };
  // Where this lane's rows for ldmatrix lie in a stage, for the first 16 columns. Further rows are
  // whole swizzles away, and columns change the piece by an exclusive or: few addresses to keep.
  const int left_at = piece_offset(warp_row + lane % 16, lane / 16);
  const int right_at =
      kMmaSideBytes + piece_offset(warp_column + lane / 16 * 8 + lane % 8, lane / 8 % 2);
  float sum[2][kMmaColumns / 8][4];
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < kMmaColumns / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[m][n][i] = 0.0f;

  load(0);
  for (int chunk = 0; chunk < chunks; ++chunk) {
    if (chunk + 1 < chunks) {
      load(chunk + 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    const char* stage = shared + chunk % kMmaStages * 2 * kMmaSideBytes;
#pragma unroll
    for (int step = 0; step < kSwizzledPieces / 2; ++step) {
      const char* left_step = stage + (left_at ^ (step * 32));
      const char* right_step = stage + (right_at ^ (step * 32));
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) ldmatrix_x4(a[m], left_step + m * 16 * kSwizzledBytes);
#pragma unroll
      for (int n = 0; n < kMmaColumns / 8; n += 2) {
        uint32_t b[4];
        ldmatrix_x4(b, right_step + n * 8 * kSwizzledBytes);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          mma_bf16(sum[m][n], a[m], b);
          mma_bf16(sum[m][n + 1], a[m], b + 2);
        }
      }
    }
    __syncthreads();
  }
  const int tile = block.column * (kBlockColumns / kMmaColumns) + warp / 4;
#pragma unroll
  for (int m = 0; m < 2; ++m)
    finish_tile<FastExp>(
        MmaFragment<kMmaColumns / 8>{&sum[m][0][0], first_row + warp_row + 16 * m, lane}, to, tile);
}

// ---- f32 ----

constexpr int kFloatChunk = 8;
// Four more than the rows, so that storing rows across the columns meets no bank twice.
constexpr int kFloatStride = kBlockRows + 4;
constexpr int kFloatSide = kFloatChunk * kFloatStride;
constexpr size_t kFloatSharedBytes = 2 * 2 * kFloatSide * sizeof(float);

// A thread's share of 128 rows by 8 columns on its way from memory to shared memory.
struct FloatShare {
  static constexpr int kPieces = kBlockRows * kFloatChunk / 4 / kBlockThreads;
  FourNumbers piece[kPieces];

  static constexpr int kAcross = kFloatChunk / 4;
  static constexpr int kStep = kBlockThreads / kAcross;  // rows that the block brings at once

  static __device__ int row() { return static_cast<int>(threadIdx.x) / kAcross; }
  static __device__ int column() { return static_cast<int>(threadIdx.x) % kAcross * 4; }

  // From the tile's corner in a chunk; what lies beyond `rows` and `columns` becomes zero.
  __device__ void fetch(const float* from, int64_t stride, int rows, int columns, bool aligned) {
    const float* source = from + row() * stride + column();
    const int left = columns - column();
#pragma unroll
    for (int i = 0; i < kPieces; ++i, source += kStep * stride) {
      const bool there = row() + i * kStep < rows;
      if (aligned && there && left >= 4) {
        piece[i] = *reinterpret_cast<const FourNumbers*>(source);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) piece[i].number[j] = there && j < left ? source[j] : 0.0f;
      }
    }
  }
  // Columns become rows: a thread then reads its eight numbers of a column at once.
  __device__ void store(float* to) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        to[(column() + j) * kFloatStride + row() + i * kStep] = piece[i].number[j];
  }
};

template <class Output>
__global__ void __launch_bounds__(kBlockThreads, 2)
    float_product_kernel(Product product, Output to, unsigned row_tiles, unsigned column_tiles) {
  float* shared = dynamic_shared<float>();
  const int x = static_cast<int>(threadIdx.x) % 16, y = static_cast<int>(threadIdx.x) / 16;
  const BlockTile block = block_tile(blockIdx.x, row_tiles, column_tiles);
  const int first_row = block.row * kBlockRows;
  const int first_column = block.column * kBlockColumns;
  const int chunks = (product.width + kFloatChunk - 1) / kFloatChunk;
  const TileCorners<float> corners(product, first_row, first_column);
  FloatShare left, right;
  const auto fetch = [&](int chunk) {
    const int column = chunk * kFloatChunk;
    const int columns = rest(product.width, column);
    left.fetch(corners.left + column, product.left_stride, corners.left_rows, columns,
               product.aligned);
    right.fetch(corners.right + column, product.right_stride, corners.right_rows, columns,
                product.aligned);
  };
  float sum[SquareFragment::kRows * SquareFragment::kColumns];
#pragma unroll
  for (float& number : sum) number = 0.0f;

  fetch(0);
  for (int chunk = 0; chunk < chunks; ++chunk) {
    float* stage = shared + chunk % 2 * 2 * kFloatSide;
    left.store(stage);
    right.store(stage + kFloatSide);
    // One barrier per chunk: who stores to a stage has passed the barrier behind its last reading.
    __syncthreads();
    if (chunk + 1 < chunks) fetch(chunk + 1);
#pragma unroll
    for (int k = 0; k < kFloatChunk; ++k) {
      const float* row = stage + k * kFloatStride;
      const float* column = row + kFloatSide;
      FourNumbers a[2], b[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        a[half] = *reinterpret_cast<const FourNumbers*>(row + y * 8 + half * 4);
        b[half] = *reinterpret_cast<const FourNumbers*>(column + half * 64 + x * 4);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j)
          sum[i * 8 + j] = fmaf(a[i / 4].number[i % 4], b[j / 4].number[j % 4], sum[i * 8 + j]);
    }
  }
  finish_tile<ExactExp>(SquareFragment{sum, first_row, x, y}, to, block.column);
}

}  // namespace jsarag::cuda::passage_logp
