// All M steps of B Metropolis independence chains in one call (jsarag/ops/mis_chain.py has the
// rules, jsarag/ops/reference/mis_chain.py the definition).
#pragma once

#include <cstddef>
#include <cstdint>

#include "jsarag/cuda_call.h"

namespace jsarag {

struct MisChainParams {
  int64_t chains = 0;                       // B
  int64_t steps = 0;                        // M
  const float* log_weight = nullptr;        // [B, M] f32, contiguous
  const float* start_log_weight = nullptr;  // [B] f32, or null: the first proposal is the start
  const void* uniforms = nullptr;           // [B, M] f32 or f64, contiguous
  bool uniforms_f64 = false;
  int32_t* state = nullptr;   // [B, M] i32 out, -1 = the start
  bool* accepted = nullptr;   // [B, M] bool out
  float* visits = nullptr;    // [B, M + 1] f32 out
  float* recycled = nullptr;  // [B, M + 1] f32 out, summed in f64
};

// Runs on at most `threads` threads; the result does not depend on how many.
void mis_chain_cpu(const MisChainParams& params, int threads);

// The same on a GPU, in one launch; no scratch.
void mis_chain_cuda(const MisChainParams& params, const CudaCall& call);

}  // namespace jsarag
