// passage_logp on CUDA. Forward: products whose epilogue leaves each row's largest logit and sum of
// exponentials per tile of words, a fold of the tiles, a sum per sequence. Backward: a chunk of the
// vocabulary at a time, the products again, and the gradient on them; the matrix products that
// spread it over hidden and weight are the vendor's (jsarag/ops/passage_logp_chunks.py).
//
// What is kept beside the inputs is 8 bytes per row and tile of 64 to 256 words, a sixteenth of
// bf16 logits at most. Nothing depends on how blocks are scheduled.
#include "jsarag/passage_logp.h"

#include <algorithm>
#include <climits>
#include <stdexcept>

#include "cuda/detail/launch.h"
#include "cuda/detail/passage_logp_product.h"
#include "cuda/detail/passage_logp_wgmma.h"
#include "cuda/detail/scratch.h"
#include "cuda/detail/simt.h"

namespace jsarag {
namespace cuda::passage_logp {
namespace {

constexpr int kFoldRows = 32, kFoldSharers = 8;
constexpr int kFoldThreads = kFoldRows * kFoldSharers;

struct FoldWork {
  const Partial* partials;    // [tiles, rows]
  const float* target_logit;  // [rows], where the target is a word
  const int64_t* targets;
  int64_t ignore_index, rows, columns, tiles;
  double* lse;         // [rows] out
  double* token_logp;  // [rows] out
};

// A block folds the tiles of 32 rows, every eighth tile by the same warp. exp in f32: its argument
// is a difference of two f32 and its error, one unit in the last place of a term, is that of the
// terms themselves.
__global__ void __launch_bounds__(kFoldThreads) fold_tiles_kernel(FoldWork w) {
  __shared__ float peaks[kFoldSharers][kFoldRows];
  __shared__ double sums[kFoldSharers][kFoldRows];
  const int place = static_cast<int>(threadIdx.x) % kFoldRows;
  const int sharer = static_cast<int>(threadIdx.x) / kFoldRows;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kFoldRows + place;
  const bool there = row < w.rows;
  float peak = -kInfinity;
  for (int64_t tile = sharer; there && tile < w.tiles; tile += kFoldSharers)
    peak = fmaxf(peak, w.partials[tile * w.rows + row].maximum);
  peaks[sharer][place] = peak;
  __syncthreads();
#pragma unroll
  for (int s = 0; s < kFoldSharers; ++s) peak = fmaxf(peak, peaks[s][place]);
  // Nothing but -inf here: exp must see -inf - 0, not -inf + inf.
  const float offset = peak == -kInfinity ? 0.0f : peak;
  double sum = 0.0;
  for (int64_t tile = sharer; there && tile < w.tiles; tile += kFoldSharers) {
    const Partial partial = w.partials[tile * w.rows + row];
    sum += static_cast<double>(partial.sum) * expf(partial.maximum - offset);
  }
  sums[sharer][place] = sum;
  __syncthreads();
  if (sharer != 0 || !there) return;
  for (int s = 1; s < kFoldSharers; ++s) sum += sums[s][place];
  const int64_t target = w.targets[row];
  const bool ignored = target == w.ignore_index;
  const bool word = target >= 0 && target < w.columns;
  const double lse = static_cast<double>(offset) + log(sum);
  w.lse[row] = ignored ? 0.0 : lse;
  w.token_logp[row] = ignored ? 0.0 : word ? static_cast<double>(w.target_logit[row]) - lse : kNan;
}

constexpr int kSequenceWarps = 4;

// Tokens of a sequence, within the rows whatever the caller's boundaries say.
struct Tokens {
  int64_t begin, end;
};
__device__ inline Tokens tokens_of(const int64_t* cu_seqlens, int64_t sequence, int64_t rows) {
  const int64_t begin = cu_seqlens[sequence], end = cu_seqlens[sequence + 1];
  return {begin < 0 ? 0 : begin, end > rows ? rows : end};
}

// One warp per sequence.
__global__ void __launch_bounds__(32 * kSequenceWarps)
    sum_sequences_kernel(PassageLogpParams p, const double* token_logp) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t sequence =
      static_cast<int64_t>(blockIdx.x) * kSequenceWarps + static_cast<int>(threadIdx.x) / 32;
  if (sequence >= p.in.sequences) return;
  const Tokens tokens = tokens_of(p.in.cu_seqlens, sequence, p.in.tokens);
  double sum = 0.0;
  int counted = 0;
  for (int64_t t = tokens.begin + lane; t < tokens.end; t += 32) {
    sum += token_logp[t];
    counted += p.in.targets[t] != p.in.ignore_index ? 1 : 0;
  }
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    sum += __shfl_xor_sync(kFullWarp, sum, step);
    counted += __shfl_xor_sync(kFullWarp, counted, step);
  }
  if (lane != 0) return;
  p.logp[sequence] = static_cast<float>(sum);
  p.counted[sequence] = counted;
}

// The gradient of each row's sequence; 0 for a row that boundaries leave out.
__global__ void __launch_bounds__(kFoldThreads)
    spread_gradient_kernel(PassageLogpInputs in, const float* grad_logp, float* grad) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kFoldThreads + threadIdx.x;
  if (row >= in.tokens) return;
  // The last sequence that begins at or before the row; empty ones begin there, too, but earlier.
  int64_t low = 0, high = in.sequences + 1;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (in.cu_seqlens[middle] <= row)
      low = middle + 1;
    else
      high = middle;
  }
  grad[row] = low >= 1 && low <= in.sequences ? grad_logp[low - 1] : 0.0f;
}

LaunchShape warp_per_sequence(int64_t sequences) {
  return {static_cast<unsigned>(ceil_div(sequences, kSequenceWarps)), 32 * kSequenceWarps, 0};
}

// hidden times the words first_word .. + words.
Product product_of(const PassageLogpInputs& in, int64_t first_word, int64_t words) {
  const int64_t bytes = in.bf16 ? 2 : 4;
  if (std::max({in.tokens, in.vocabulary, in.width}) > INT_MAX - 4096)
    throw std::runtime_error("passage_logp: tokens, words and width expected below 2^31 - 4096");
  Product product{};
  product.left = in.hidden;
  product.left_stride = in.hidden_stride;
  product.right = static_cast<const char*>(in.weight) + first_word * in.weight_stride * bytes;
  product.right_stride = in.weight_stride;
  product.rows = static_cast<int>(in.tokens);
  product.columns = static_cast<int>(words);
  product.width = static_cast<int>(in.width);
  const auto starts = [&](const void* address, int64_t stride) {
    return (reinterpret_cast<uintptr_t>(address) | static_cast<uintptr_t>(stride * bytes)) % 16 ==
           0;
  };
  product.aligned =
      starts(product.left, product.left_stride) && starts(in.weight, in.weight_stride);
  return product;
}

LogitRule rule_of(const PassageLogpInputs& in, int64_t first_word) {
  const int64_t bytes = in.bf16 ? 2 : 4;
  const void* bias =
      in.bias == nullptr ? nullptr : static_cast<const char*>(in.bias) + first_word * bytes;
  return {bias, in.bf16, in.logit_scale, in.softcap};
}

bool on_wgmma(const PassageLogpInputs& in, const Product& product, int device) {
  return in.bf16 && product.aligned && wgmma_fits(product, device);
}

// Words per entry of ForwardOutput::partials.
int tile_words(const PassageLogpInputs& in, int device) {
  if (on_wgmma(in, product_of(in, 0, in.vocabulary), device)) return kWgmmaTile;
  return in.bf16 ? kMmaColumns : kBlockColumns;
}

template <class Output>
void launch_product(const PassageLogpInputs& in, const Product& product, const Output& to,
                    const CudaCall& call) {
  if (on_wgmma(in, product, call.device))
    return launch_wgmma(product, to, call.device, call.stream);
  const int64_t tiles =
      ceil_div(product.rows, kBlockRows) * ceil_div(product.columns, kBlockColumns);
  if (tiles > INT_MAX) throw std::runtime_error("passage_logp: too many tokens and words at once");
  const auto row_tiles = static_cast<unsigned>(ceil_div(product.rows, kBlockRows));
  const auto column_tiles = static_cast<unsigned>(ceil_div(product.columns, kBlockColumns));
  const auto blocks = static_cast<unsigned>(tiles);
  if (in.bf16) {
    launch("passage_logp: bf16 products", mma_product_kernel<Output>,
           LaunchShape{blocks, kBlockThreads, kMmaSharedBytes}, call.stream, product, to, row_tiles,
           column_tiles);
  } else {
    launch("passage_logp: f32 products", float_product_kernel<Output>,
           LaunchShape{blocks, kBlockThreads, kFloatSharedBytes}, call.stream, product, to,
           row_tiles, column_tiles);
  }
}

struct ForwardScratch {
  int64_t tiles;
  Partial* partials;
  float* target_logit;
  double* token_logp;

  ForwardScratch(const PassageLogpInputs& in, int device, Scratch& scratch) {
    tiles = ceil_div(in.vocabulary, tile_words(in, device));
    partials = scratch.take<Partial>(tiles * in.tokens);
    target_logit = scratch.take<float>(in.tokens);
    token_logp = scratch.take<double>(in.tokens);
  }
};

}  // namespace
}  // namespace cuda::passage_logp

size_t passage_logp_cuda_scratch(const PassageLogpInputs& in, int device) {
  cuda::Scratch scratch(nullptr);
  const cuda::passage_logp::ForwardScratch pieces(in, device, scratch);
  return scratch.used();
}

void passage_logp_cuda(const PassageLogpParams& p, const CudaCall& call) {
  using namespace cuda;
  using namespace cuda::passage_logp;
  const PassageLogpInputs& in = p.in;
  if (in.sequences == 0 && in.tokens == 0) return;
  const DeviceGuard guard(call.device);
  Scratch scratch(call.scratch);
  const ForwardScratch pieces(in, call.device, scratch);
  scratch.require(call.scratch_bytes, "passage_logp");
  if (in.tokens > 0) {
    const Product product = product_of(in, 0, in.vocabulary);
    const ForwardOutput to{rule_of(in, 0),  in.targets,      product.rows,
                           product.columns, pieces.partials, pieces.target_logit};
    launch_product(in, product, to, call);
    const FoldWork fold{pieces.partials,  pieces.target_logit, in.targets,   in.ignore_index,
                        in.tokens,        in.vocabulary,       pieces.tiles, p.lse,
                        pieces.token_logp};
    launch("passage_logp: fold tiles", fold_tiles_kernel,
           LaunchShape{static_cast<unsigned>(ceil_div(in.tokens, kFoldRows)), kFoldThreads, 0},
           call.stream, fold);
  }
  if (in.sequences > 0)
    launch("passage_logp: sum sequences", sum_sequences_kernel, warp_per_sequence(in.sequences),
           call.stream, p, static_cast<const double*>(pieces.token_logp));
}

size_t passage_logp_gradient_cuda_scratch(const PassageLogpInputs& in) {
  cuda::Scratch scratch(nullptr);
  scratch.take<float>(in.tokens);
  return scratch.used();
}

void passage_logp_gradient_cuda(const PassageLogpGradientParams& p, const CudaCall& call) {
  using namespace cuda;
  using namespace cuda::passage_logp;
  const PassageLogpInputs& in = p.in;
  if (in.tokens == 0 || p.words == 0) return;
  const DeviceGuard guard(call.device);
  Scratch scratch(call.scratch);
  float* grad = scratch.take<float>(in.tokens);
  scratch.require(call.scratch_bytes, "passage_logp backward");
  launch("passage_logp: spread gradient", spread_gradient_kernel,
         LaunchShape{static_cast<unsigned>(ceil_div(in.tokens, kFoldThreads)), kFoldThreads, 0},
         call.stream, in, p.grad_logp, grad);
  const Product product = product_of(in, p.first_word, p.words);
  const BackwardOutput to{rule_of(in, p.first_word),
                          in.targets,
                          in.ignore_index,
                          p.first_word,
                          product.rows,
                          product.columns,
                          p.lse,
                          grad,
                          p.gradient,
                          static_cast<int>(p.stride)};
  launch_product(in, product, to, call);
}

}  // namespace jsarag
