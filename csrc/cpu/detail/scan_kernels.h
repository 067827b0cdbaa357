// The inner loops of scan, draw and log_partition, one table of functions per instruction set.
//
// How a score is computed (the same for every batch size, position and thread, so that results are
// reproducible and a rescored candidate equals a scanned one bit for bit):
//   A row is cut into 32-bit words: one f32, two bf16 or two int16, zero-padded to a multiple of
//   kStrands. Words s, s + kStrands, s + 2 kStrands, ... are a strand: its products are summed in
//   order, and the strands' sums are added in order. For a few queries a vector holds words of
//   different strands, as they lie in memory, at the speed of memory. For many, rows are transposed
//   into a panel, lanes = passages, strand after strand, and each word is multiplied into the
//   accumulators of a block of queries.
#pragma once

#include <cstdint>

#include "jsarag/scan.h"

namespace jsarag::cpu {

// How words are multiplied: f32 (fused where the CPU can), pairs of bf16 into f32, pairs of int16
// into int32.
enum class Arithmetic : int { f32 = 0, bf16_pairs = 1, i16_pairs = 2 };

constexpr int kMaxBlock = 32;        // queries per block, at most
constexpr int kMaxFew = 8;           // queries for which rows are scored without a panel, at most
constexpr int64_t kPanelRows = 128;  // passages per panel, at most; divides kTile
constexpr int64_t kStrands = 16;     // partial sums of a score, whatever the vectors' length
constexpr int kMaxSlice = 32;        // passages per slice of a panel, at most

struct PanelSource {
  const char* rows;  // first row
  int64_t row_bytes;
  int64_t count;  // rows to take; the rest of the panel's last slice is zero
  int64_t width;  // D
  ScalarType type;
};

struct ScoreArguments {
  const uint32_t* panel;
  int64_t words;
  int64_t rows;              // passages in the panel; scores are written for whole slices
  const uint32_t* queries;   // packed block: [words by strands][block], or in tiles
  const uint32_t* few;       // the block's queries as they are, [block][words], or null
  int block;                 // 1..max_block, or ..tile_queries
  const float* query_scale;  // [block], or null
  const float* row_scale;    // [rows rounded up to a slice], or null
  float* scores;             // [block][kPanelRows] out; room for kMaxBlock rows
};

struct ScanKernels {
  const char* name;
  int slice;      // passages per slice of a panel
  int max_block;  // queries per block
  int max_few;    // queries that score_few takes
  // Queries per block of bf16 pairs where these are packed in tiles, [block / 16][words / 16][16
  // queries][16 words], words a multiple of 16, the last tile filled up with zeros; 0: like the
  // rest.
  int tile_queries;
  int lanes;  // floats per vector; a LogSumExp state is 2 * lanes floats per query

  Arithmetic (*arithmetic)(ScalarType type);

  // panel [ceil(count / slice)][words by strands][slice]; words of a row are zero-padded.
  void (*pack_panel)(Arithmetic arithmetic, const PanelSource& source, int64_t words,
                     uint32_t* panel);

  void (*score)(Arithmetic arithmetic, const ScoreArguments& arguments);

  // The same scores, bit for bit, straight from the rows: for at most max_few queries a panel costs
  // more than it saves. `panel` is unused. False where there is no such kernel.
  bool (*score_few)(Arithmetic arithmetic, const PanelSource& source,
                    const ScoreArguments& arguments);

  // Positions i < count with scores[i] > threshold, ascending; NaN is never above. Returns how
  // many.
  int (*select)(const float* scores, int64_t count, float threshold, int32_t* positions);

  // Positions with scores[i] + a * error[i] + b * norm[i] not below threshold (NaN counts as not
  // below): the upper bound of what the exact score may be.
  int (*select_upper)(const float* scores, const float* error, const float* norm, float a, float b,
                      int64_t count, float threshold, int32_t* positions);

  // Adds count scores to a streaming log-sum-exp of score * factor: state [2 * lanes] = running
  // maxima (start: -inf), sums (start: 0).
  void (*accumulate_lse)(const float* scores, int64_t count, float factor, float* state);

  // weights[i] = exp(scores[i] * factor - shift); exactly 0 for -inf scores.
  void (*softmax_weights)(const float* scores, int64_t count, float factor, float shift,
                          float* weights);

  // gradient[q][d] += sum_i weights[q][i] * rows[i][d], weights [block][kPanelRows], gradient rows
  // `width` floats apart.
  void (*accumulate_rows)(const PanelSource& source, const float* weights, int block,
                          float* gradient);
};

// Each null where the compiler's target has no such instructions.
extern const ScanKernels kScanPortable, kScanAvx2, kScanAvx512, kScanAvx512Bf16, kScanAmx;

// The best table for the running CPU.
const ScanKernels& scan_kernels();

}  // namespace jsarag::cpu
