// What one instruction set offers to passage_logp: packing, three small matrix products and the
// two passes over a block of logits. The driver (cpu/passage_logp.cpp) is the same for all.
//
// Memory is counted in *units* of 32 bits along the summed dimension: one f32, or two bf16 that
// the instruction multiplies and adds at once. Operands are packed in panels:
//   left  (broadcast): [panel][k units][kept rows]
//   right (vectors):   [panel][k units][columns], the last panel only as wide as needed
#pragma once

#include <cstdint>

namespace jsarag::cpu {

// Logits are made in blocks of kTokenBlock x kVocabularyBlock that stay in the second-level cache.
// Both are multiples of every engine's panel sizes; none depends on the number of threads.
constexpr int64_t kTokenBlock = 64;
constexpr int64_t kVocabularyBlock = 480;
// Row strides (in f32 and in units) with a pad, so that rows do not fall on one cache set.
constexpr int64_t kLogitsStride = kVocabularyBlock + 16;

// A matrix in memory, f32 or bf16, read row by row; `rows` (or null) says which rows.
struct Source {
  const void* data;
  bool bf16;
  int64_t stride;       // elements between rows
  const int64_t* rows;  // row i of the operand is row rows[i] of the matrix
};

// How logits follow from products: scale * (product + bias), softcap * tanh(. / softcap).
struct LogitRule {
  const float* bias;  // [columns], or null
  float scale;
  float softcap;  // 0 = none
};

struct LseBlock {
  float* products;  // [rows, kLogitsStride], overwritten
  int64_t rows, columns;
  LogitRule rule;
  const int64_t* targets;  // [rows] column of the target, outside [0, columns) if not here
  float* maximum;          // [rows] out
  float* sum;              // [rows] out: sum of exp(logit - maximum)
  float* target_logit;     // [rows] written where the target is here
};

struct GradBlock {
  float* products;  // [kTokenBlock, kLogitsStride], overwritten with d loss / d product
  int64_t columns;  // columns up to the next panel come out as 0
  LogitRule rule;
  const int64_t* targets;  // [kTokenBlock], as above
  const float* lse;        // [kTokenBlock], rounded to f32, and
  const float* mass;       // [kTokenBlock] the factor exp(rounded - exact) that makes up for it
  const float* grad;       // [kTokenBlock]; the loss's gradient on log p of the row's target
  float* by_token;         // [kTokenBlock, kLogitsStride] units along columns out; not for f32
  float* by_word;          // [panel of columns][token_units][columns], this block's first unit
  int64_t token_units;     // units of all tokens
};

struct Engine {
  int rows;       // of a left panel
  int columns;    // of a right panel
  int lanes;      // a narrower last right panel is a multiple of this
  int unit_step;  // summed dimensions are padded with zeros to a multiple of this many units
  bool pairs;     // units are pairs of bf16

  // One panel from n rows of the matrix, first .. first + n - 1; k = its width, padded to `units`.
  // pack_tokens: a left panel; pack_words: a right one of `panel` columns.
  void (*pack_tokens)(const Source& source, int64_t first, int64_t n, int64_t width, int64_t units,
                      int panel, float* out);
  void (*pack_words)(const Source& source, int64_t first, int64_t n, int64_t width, int64_t units,
                     int panel, float* out);
  // One panel from n columns of the matrix; k = its n_rows rows, padded to `units`.
  // pack_word_rows: a right panel; pack_token_columns: what product_by_word reads.
  void (*pack_word_rows)(const Source& source, int64_t n_rows, int64_t units, int64_t first_column,
                         int64_t n, int panel, float* out);
  void (*pack_token_columns)(const Source& source, int64_t n_rows, int64_t units,
                             int64_t first_column, int64_t n, int panel, float* out);

  // c [rows, columns] (+)= left * right over `units`; row_panels left panels of `rows`.
  // product: left as pack_tokens made it. by_token: left rows are kLogitsStride units apart.
  // by_word: left is one panel of `columns` words as GradBlock writes it, right as
  // pack_token_columns made it.
  void (*product)(const float* left, int64_t row_panels, const float* right, int64_t columns,
                  int64_t units, float* c, int64_t c_stride, bool accumulate);
  void (*product_by_token)(const float* left, int64_t row_panels, const float* right,
                           int64_t columns, int64_t units, float* c, int64_t c_stride,
                           bool accumulate);
  void (*product_by_word)(const float* left, int64_t row_panels, const float* right,
                          int64_t columns, int64_t units, float* c, int64_t c_stride,
                          bool accumulate);

  void (*lse)(const LseBlock& block);
  void (*grad)(const GradBlock& block);
  // out[columns] = sum over all tokens of one by_word panel.
  void (*sum_words)(const float* by_word, int64_t token_units, float* out);
};

// The engine for bf16 or f32 operands on the running CPU.
const Engine& passage_logp_engine(bool bf16);

extern const Engine kPassageLogpPortable;
#if JSARAG_X86
extern const Engine kPassageLogpAvx2;
extern const Engine kPassageLogpAvx512;
extern const Engine kPassageLogpAvx512Bf16;
extern const Engine kPassageLogpAmx;
#endif

}  // namespace jsarag::cpu
