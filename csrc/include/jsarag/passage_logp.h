// Log-likelihood of packed sequences from their last hidden states, and its gradient, without
// [T, V] logits (jsarag/ops/passage_logp.py has the rules, jsarag/ops/reference the definition).
#pragma once

#include <cstddef>
#include <cstdint>

#include "jsarag/cuda_call.h"

namespace jsarag {

// What both directions read. logits = logit_scale * (hidden weight^T + bias), then
// softcap * tanh(logits / softcap) where softcap > 0.
struct PassageLogpInputs {
  int64_t tokens = 0;            // T
  int64_t width = 0;             // H
  int64_t vocabulary = 0;        // V
  int64_t sequences = 0;         // S
  bool bf16 = false;             // hidden, weight and bias are bf16 instead of f32
  const void* hidden = nullptr;  // [T, H], rows hidden_stride elements apart
  int64_t hidden_stride = 0;
  const void* weight = nullptr;  // [V, H], rows weight_stride elements apart
  int64_t weight_stride = 0;
  const void* bias = nullptr;           // [V], contiguous, or null
  const int64_t* targets = nullptr;     // [T] i64, each in [0, V) or ignore_index
  const int64_t* cu_seqlens = nullptr;  // [S + 1] i64, ascending from 0 to T
  int64_t ignore_index = -100;
  float logit_scale = 1.0f;
  float softcap = 0.0f;  // 0 = none
};

struct PassageLogpParams {
  PassageLogpInputs in;
  float* logp = nullptr;       // [S] f32 out
  int32_t* counted = nullptr;  // [S] i32 out
  double* lse = nullptr;       // [T] f64 out: log-sum-exp of each token's logits, 0 where ignored
};

struct PassageLogpBackwardParams {
  PassageLogpInputs in;
  const double* lse = nullptr;       // [T] f64, from the forward pass
  const float* grad_logp = nullptr;  // [S] f32; tokens of sequences with 0 are skipped
  void* grad_hidden = nullptr;       // [T, H] like hidden but contiguous, out, or null
  void* grad_weight = nullptr;       // [V, H] like weight but contiguous, out, or null
  void* grad_bias = nullptr;         // [V] like bias, out, or null
};

// A chunk of the vocabulary: the gradient on its products hidden weight^T, from which those on
// hidden, weight and bias follow by two matrix products and a sum.
struct PassageLogpGradientParams {
  PassageLogpInputs in;
  const double* lse = nullptr;       // [T] f64, from the forward pass
  const float* grad_logp = nullptr;  // [S] f32
  int64_t first_word = 0, words = 0;
  void* gradient =
      nullptr;         // [T, stride] like hidden, out; 16-byte aligned. Rows of ignored tokens
                       // and of sequences with gradient 0 are 0, as are columns past `words`
  int64_t stride = 0;  // in elements, a multiple of 8
};

// On at most `threads` threads; the results are bit-equal for any number of them.
void passage_logp_cpu(const PassageLogpParams& params, int threads);
void passage_logp_backward_cpu(const PassageLogpBackwardParams& params, int threads);

// On the GPU no target is checked, which would mean waiting: one that is no word gives NaN.
size_t passage_logp_cuda_scratch(const PassageLogpInputs& in, int device);
void passage_logp_cuda(const PassageLogpParams& params, const CudaCall& call);
size_t passage_logp_gradient_cuda_scratch(const PassageLogpInputs& in);
void passage_logp_gradient_cuda(const PassageLogpGradientParams& params, const CudaCall& call);

}  // namespace jsarag
