// One streaming pass over the knowledge base: the best passages of each query and the mass of every
// tile. Legend: B queries, N passages, D width, E excluded passages per query, k results.
#pragma once

#include <cstdint>

#include "jsarag/cuda_call.h"

namespace jsarag {

// Passages per tile of tile_lse: one constant for all backends. jsarag/ops/tile.py repeats it and
// refuses a module that disagrees.
constexpr int64_t kTile = 512;

enum class ScalarType : int { f32 = 0, bf16 = 1, f16 = 2, i8 = 3 };

constexpr int64_t scalar_bytes(ScalarType type) {
  return type == ScalarType::f32 ? 4 : type == ScalarType::i8 ? 1 : 2;
}

struct QueriesView {
  const float* data;  // [B, D] f32, contiguous
  int64_t count;      // B
  int64_t width;      // D
};

// Row-major passages, read where they lie (they may be a memory-mapped file).
struct PassagesView {
  const void* data;  // [N, D] of `type`, a row's numbers contiguous
  ScalarType type;
  int64_t row_bytes;    // from one row to the next
  const float* scales;  // [N] f32 for i8, else null: the row is scales[n] * data[n]
  int64_t count;        // N < 2^31
  int64_t width;        // D
};

// Passages each query leaves out; entries outside 0..N-1 are padding.
struct ExcludeView {
  const int64_t* ids;  // [B, E] int64 contiguous, or null
  int64_t per_query;   // E
};

// What makes the results of rounded passages certain: the vectors they were rounded from, and how
// far each row moved. See scan_certified in cpu/scan.cpp for the bound.
struct CertifyView {
  PassagesView exact;      // [N, D] f32
  const float* row_error;  // [N] f32, at least |e - e'|; +inf where unknown
  const float* row_norm;   // [N] f32, at least |e'|
};

struct ScanParams {
  QueriesView queries;
  PassagesView passages;
  ExcludeView exclude;
  const CertifyView* certify;  // null: results of the passages as they are
  int64_t k;                   // >= 0; 0 asks for tile_lse alone
  float inv_temperature;       // > 0
  int threads;                 // >= 1; results do not depend on it
  int64_t* ids;                // [B, k] int64 out: score descending, then id ascending; -1 pads
  float* scores;               // [B, k] f32 out; -inf pads
  float* tile_lse;             // [B, ceil(N / kTile)] f32 out, or null
};

void scan_cpu(const ScanParams& params);
// tile_lse tells by being null or not whether it is asked for; nothing is read or written.
size_t scan_cuda_scratch(const ScanParams& params, int device);
void scan_cuda(const ScanParams& params, const CudaCall& call);

struct RowErrorParams {
  PassagesView rounded;
  PassagesView exact;  // f32
  int threads;
  float* row_error;  // [N] f32 out: |e - e'| rounded up, +inf where not finite
  float* row_norm;   // [N] f32 out: |e'| rounded up
};

void row_errors_cpu(const RowErrorParams& params);
void row_errors_cuda(const RowErrorParams& params, const CudaCall& call);

}  // namespace jsarag
