// log sum over all passages of exp(score * inv_temperature), and its gradient in the queries.
#pragma once

#include "jsarag/cuda_call.h"
#include "jsarag/scan.h"

namespace jsarag {

struct LogPartitionParams {
  QueriesView queries;
  PassagesView passages;
  ExcludeView exclude;
  float inv_temperature;
  int threads;
  float* lse;  // [B] f32 out
};

void log_partition_cpu(const LogPartitionParams& params);
size_t log_partition_cuda_scratch(const LogPartitionParams& params, int device);
void log_partition_cuda(const LogPartitionParams& params, const CudaCall& call);

struct LogPartitionBackwardParams {
  QueriesView queries;
  PassagesView passages;
  ExcludeView exclude;
  float inv_temperature;
  int threads;
  const float* lse;   // [B] f32, of the forward pass
  const float* grad;  // [B] f32
  float* gradient;    // [B, D] f32 out: grad * inv_temperature * sum_h p(h) e(h)
};

void log_partition_backward_cpu(const LogPartitionBackwardParams& params);
size_t log_partition_backward_cuda_scratch(const LogPartitionBackwardParams& params);
void log_partition_backward_cuda(const LogPartitionBackwardParams& params, const CudaCall& call);

}  // namespace jsarag
