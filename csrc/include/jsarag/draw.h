// Exact categorical draws from the softmax over all passages, from a scan's tile masses.
#pragma once

#include "jsarag/cuda_call.h"
#include "jsarag/scan.h"

namespace jsarag {

struct DrawParams {
  QueriesView queries;
  PassagesView passages;
  ExcludeView exclude;
  float inv_temperature;
  int threads;
  const float* tile_lse;   // [B, ceil(N / kTile)] f32, of a scan with the same arguments
  const double* uniforms;  // [B, M] f64 in (0, 1)
  int64_t draws;           // M
  int64_t* ids;            // [B, M] int64 out; -1 where a query has no mass
  float* logp;             // [B, M] f32 out: log of the probability really drawn with
};

void draw_cpu(const DrawParams& params);
size_t draw_cuda_scratch(const DrawParams& params);
void draw_cuda(const DrawParams& params, const CudaCall& call);

}  // namespace jsarag
