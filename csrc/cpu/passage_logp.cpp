// passage_logp on the CPU: the same driver for every instruction set. Work is cut into blocks by
// shape alone and partial results are combined in a fixed order, so the number of threads changes
// no bit of the result.
#include "jsarag/passage_logp.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <vector>

#include "cpu/detail/cpuid.h"
#include "cpu/detail/passage_logp_engine.h"
#include "cpu/detail/thread_pool.h"

namespace jsarag {
namespace cpu {

const Engine& passage_logp_engine(bool bf16) {
#if JSARAG_X86
  const Isa isa = best_isa();
  if (isa >= Isa::amx && bf16) return kPassageLogpAmx;
  if (isa >= Isa::avx512bf16 && bf16) return kPassageLogpAvx512Bf16;
  if (isa >= Isa::avx512) return kPassageLogpAvx512;
  if (isa >= Isa::avx2) return kPassageLogpAvx2;
#endif
  (void)bf16;
  return kPassageLogpPortable;
}

}  // namespace cpu

namespace {

using cpu::Engine;
using cpu::GradBlock;
using cpu::kLogitsStride;
using cpu::kTokenBlock;
using cpu::kVocabularyBlock;
using cpu::LogitRule;
using cpu::LseBlock;
using cpu::Source;

// Tokens that share one packing of a block of the vocabulary in the forward pass.
constexpr int64_t kTokensPerTask = 16 * kTokenBlock;
// Vocabulary blocks between two meetings of the threads in the backward pass.
constexpr int64_t kBlocksPerChunk = 2;
// Columns of the weight's gradient per task, a multiple of every engine's panel.
constexpr int64_t kWidthPart = 384;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

// Uninitialised f32 (or units) on a cache line boundary.
class Buffer {
 public:
  explicit Buffer(int64_t n) {
    const size_t bytes = static_cast<size_t>(round_up(std::max<int64_t>(n, 1), 16)) * 4;
    data_ = static_cast<float*>(std::aligned_alloc(64, bytes));
    if (data_ == nullptr) throw std::bad_alloc();
  }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  float* data() const { return data_; }
  float* at(int64_t offset) const { return data_ + offset; }

 private:
  float* data_;
};

// Calls body(worker, task) for every task, shared out as workers come free.
void for_each_task(int threads, int64_t tasks,
                   const std::function<void(int worker, int64_t task)>& body) {
  std::atomic<int64_t> next{0};
  threads = static_cast<int>(std::clamp<int64_t>(threads, 1, std::max<int64_t>(tasks, 1)));
  cpu::parallel(threads, [&](int worker) {
    for (int64_t task = next.fetch_add(1); task < tasks; task = next.fetch_add(1)) {
      body(worker, task);
    }
  });
}

float bf16_to_f32(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

uint16_t f32_to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Writes n f32 to element `first` of an f32 or bf16 array.
void store_elements(const float* from, int64_t n, void* to, int64_t first, bool bf16) {
  if (bf16) {
    uint16_t* out = static_cast<uint16_t*>(to) + first;
    for (int64_t i = 0; i < n; ++i) out[i] = f32_to_bf16(from[i]);
  } else {
    std::memcpy(static_cast<float*>(to) + first, from, static_cast<size_t>(n) * 4);
  }
}

// The tokens that count, and everything the blocks need to know about each; padded to whole token
// blocks with tokens that contribute nothing.
struct Tokens {
  std::vector<int64_t> row, target, sequence;
  int64_t count = 0, padded = 0;

  // grad_logp null: all tokens that are not ignored; else only those with a gradient.
  Tokens(const PassageLogpInputs& in, const float* grad_logp) {
    for (int64_t s = 0; s < in.sequences; ++s) {
      if (grad_logp != nullptr && grad_logp[s] == 0.0f) continue;
      for (int64_t t = in.cu_seqlens[s]; t < in.cu_seqlens[s + 1]; ++t) {
        if (in.targets[t] == in.ignore_index) continue;
        row.push_back(t);
        target.push_back(in.targets[t]);
        sequence.push_back(s);
      }
    }
    count = static_cast<int64_t>(row.size());
    padded = round_up(count, kTokenBlock);
    target.resize(padded, -1);
  }

  // Targets of one token block as columns of the vocabulary block that starts at `first_word`.
  void targets_in_block(int64_t first_token, int64_t first_word, int64_t* out) const {
    for (int64_t i = 0; i < kTokenBlock; ++i) {
      const int64_t word = target[first_token + i];
      out[i] = word < 0 ? -1 : word - first_word;
    }
  }
};

// Sizes and packing that both passes share.
class Problem {
 public:
  Problem(const PassageLogpInputs& inputs, const float* grad_logp, int n_threads)
      : in(inputs),
        tokens(inputs, grad_logp),
        engine(cpu::passage_logp_engine(inputs.bf16)),
        threads(std::max(n_threads, 1)),
        units(units_of(in.width)),
        blocks(divide_up(in.vocabulary, kVocabularyBlock)),
        hidden{in.hidden, in.bf16, in.hidden_stride, tokens.row.data()},
        left(tokens.padded * units),
        bias(in.bias ? blocks * kVocabularyBlock : 0) {
    if (in.bias) {
      float* out = bias.data();
      std::fill(out, out + blocks * kVocabularyBlock, 0.0f);
      for (int64_t v = 0; v < in.vocabulary; ++v) {
        out[v] = in.bf16 ? bf16_to_f32(static_cast<const uint16_t*>(in.bias)[v])
                         : static_cast<const float*>(in.bias)[v];
      }
    }
    for_each_task(threads, tokens.padded / kTokenBlock, [&](int, int64_t block) {
      for (int64_t i = 0; i < kTokenBlock; i += engine.rows) {
        const int64_t first = block * kTokenBlock + i;
        const int64_t n = std::clamp<int64_t>(tokens.count - first, 0, engine.rows);
        engine.pack_tokens(hidden, first, n, in.width, units, engine.rows, left.at(first * units));
      }
    });
  }

  // Units of n values as a summed dimension.
  int64_t units_of(int64_t n) const {
    return round_up(engine.pairs ? divide_up(n, 2) : n, engine.unit_step);
  }

  int64_t words_in_block(int64_t block) const {
    return std::min(kVocabularyBlock, in.vocabulary - block * kVocabularyBlock);
  }

  // Width of the right panel that starts at `column` of `columns`.
  int panel_width(int64_t column, int64_t columns) const {
    return static_cast<int>(
        std::min<int64_t>(engine.columns, round_up(columns - column, engine.lanes)));
  }

  // The right operand of the logits, one panel: words of a vocabulary block.
  void pack_words(int64_t block, int64_t column, float* out) const {
    const int64_t words = words_in_block(block);
    const Source weight{in.weight, in.bf16, in.weight_stride, nullptr};
    engine.pack_words(weight, block * kVocabularyBlock + column,
                      std::min<int64_t>(words - column, engine.columns), in.width, units,
                      panel_width(column, words), out + column * units);
  }

  LogitRule rule(int64_t block) const {
    return {in.bias ? bias.at(block * kVocabularyBlock) : nullptr, in.logit_scale, in.softcap};
  }

  void logits(int64_t token_block, const float* words, int64_t columns, float* out) const {
    engine.product(left.at(token_block * kTokenBlock * units), kTokenBlock / engine.rows, words,
                   columns, units, out, kLogitsStride, false);
  }

  const PassageLogpInputs& in;
  const Tokens tokens;
  const Engine& engine;
  const int threads;
  const int64_t units;   // of the width
  const int64_t blocks;  // of the vocabulary
  const Source hidden;   // the counted tokens
  const Buffer left;     // hidden, packed
  const Buffer bias;     // [blocks * kVocabularyBlock] f32
};

// ---- forward ----

void forward(const Problem& problem, float* maximum, float* sum, float* target_logit) {
  const Tokens& tokens = problem.tokens;
  const int64_t token_tasks = divide_up(tokens.padded, kTokensPerTask);
  const int64_t words_units = kVocabularyBlock * problem.units;
  const int64_t scratch_size = words_units + kTokenBlock * kLogitsStride;
  Buffer scratch(problem.threads * scratch_size);

  for_each_task(problem.threads, problem.blocks * token_tasks, [&](int worker, int64_t task) {
    const int64_t block = task / token_tasks;
    const int64_t first_task_token = task % token_tasks * kTokensPerTask;
    const int64_t end = std::min(first_task_token + kTokensPerTask, tokens.padded);
    const int64_t words = problem.words_in_block(block);
    float* packed = scratch.at(worker * scratch_size);
    float* products = packed + words_units;
    for (int64_t column = 0; column < words; column += problem.engine.columns) {
      problem.pack_words(block, column, packed);
    }
    int64_t targets[kTokenBlock];
    for (int64_t first = first_task_token; first < end; first += kTokenBlock) {
      problem.logits(first / kTokenBlock, packed, words, products);
      tokens.targets_in_block(first, block * kVocabularyBlock, targets);
      const int64_t rows = std::min(kTokenBlock, tokens.count - first);
      const int64_t at = block * tokens.padded + first;
      problem.engine.lse({products, rows, words, problem.rule(block), targets, maximum + at,
                          sum + at, target_logit + first});
    }
  });
}

// Joins one token's partial sums over the vocabulary blocks, in order.
double join(const float* maximum, const float* sum, int64_t blocks, int64_t stride) {
  float highest = maximum[0];
  for (int64_t b = 1; b < blocks; ++b) highest = std::max(highest, maximum[b * stride]);
  double total = 0.0;
  for (int64_t b = 0; b < blocks; ++b) {
    const float part = sum[b * stride];
    // A block of -inf logits alone sums to 0; its maximum must not meet another infinity.
    if (part == 0.0f) continue;
    total += part * std::exp(static_cast<double>(maximum[b * stride]) - highest);
  }
  return highest + std::log(total);
}

}  // namespace

void passage_logp_cpu(const PassageLogpParams& params, int threads) {
  const PassageLogpInputs& in = params.in;
  std::fill(params.logp, params.logp + in.sequences, 0.0f);
  std::fill(params.counted, params.counted + in.sequences, 0);
  std::fill(params.lse, params.lse + in.tokens, 0.0);
  const Problem problem(in, nullptr, threads);
  const Tokens& tokens = problem.tokens;
  if (tokens.count == 0) return;

  Buffer maximum(problem.blocks * tokens.padded), sum(problem.blocks * tokens.padded);
  Buffer target_logit(tokens.padded);
  forward(problem, maximum.data(), sum.data(), target_logit.data());

  std::vector<double> logp(static_cast<size_t>(tokens.count));
  for_each_task(threads, divide_up(tokens.count, 256), [&](int, int64_t task) {
    const int64_t end = std::min(tokens.count, (task + 1) * 256);
    for (int64_t i = task * 256; i < end; ++i) {
      const double lse = join(maximum.at(i), sum.at(i), problem.blocks, tokens.padded);
      params.lse[tokens.row[i]] = lse;
      logp[i] = target_logit.data()[i] - lse;
    }
  });
  for (int64_t i = 0; i < tokens.count;) {
    const int64_t sequence = tokens.sequence[i];
    double total = 0.0;
    for (; i < tokens.count && tokens.sequence[i] == sequence; ++i) {
      total += logp[i];
      ++params.counted[sequence];
    }
    params.logp[sequence] = static_cast<float>(total);
  }
}

// ---- backward ----

namespace {

class Backward {
 public:
  Backward(const PassageLogpBackwardParams& params, int threads)
      : p_(params),
        problem_(params.in, params.grad_logp, threads),
        engine_(problem_.engine),
        width_(round_up(params.in.width, engine_.lanes)),
        token_units_(problem_.units_of(problem_.tokens.padded)),
        columns_of_token_(p_.grad_weight ? token_units_ * width_ : 0),
        by_word_(kBlocksPerChunk * kVocabularyBlock * token_units_),
        hidden_grad_(p_.grad_hidden ? problem_.tokens.padded * width_ : 0),
        words_(kBlocksPerChunk * kVocabularyBlock * problem_.units),
        word_rows_(p_.grad_hidden ? kBlocksPerChunk * block_units() * width_ : 0),
        scratch_(problem_.threads * kScratch),
        weight_scratch_(problem_.threads * engine_.columns * kWidthPart),
        lse_(problem_.tokens.padded),
        mass_(problem_.tokens.padded),
        grad_(problem_.tokens.padded) {
    const Tokens& tokens = problem_.tokens;
    for (int64_t i = 0; i < tokens.padded; ++i) {
      const double lse = i < tokens.count ? params.lse[tokens.row[i]] : 0.0;
      lse_.data()[i] = static_cast<float>(lse);
      grad_.data()[i] = i < tokens.count ? params.grad_logp[tokens.sequence[i]] : 0.0f;
      // What rounding the lse to f32 would do to all of a row's probabilities alike.
      mass_.data()[i] = static_cast<float>(std::exp(lse_.data()[i] - lse));
    }
    if (p_.grad_weight) pack_tokens();
  }

  void run() {
    for (int64_t first = 0; first < problem_.blocks; first += kBlocksPerChunk) {
      const int64_t n = std::min(kBlocksPerChunk, problem_.blocks - first);
      pack_chunk(first, n);
      by_token(first, n);
      if (p_.grad_weight || p_.grad_bias) by_word(first, n);
    }
    if (p_.grad_hidden) store_hidden_grad();
  }

 private:
  static constexpr int64_t kScratch = 2 * kTokenBlock * kLogitsStride;

  int64_t block_units() const { return problem_.units_of(kVocabularyBlock); }

  // The right operand of the weight's gradient: tokens as the summed dimension.
  void pack_tokens() {
    const int64_t panels = divide_up(p_.in.width, engine_.columns);
    for_each_task(problem_.threads, panels, [&](int, int64_t panel) {
      const int64_t column = panel * engine_.columns;
      engine_.pack_token_columns(problem_.hidden, problem_.tokens.count, token_units_, column,
                                 std::min<int64_t>(engine_.columns, p_.in.width - column),
                                 problem_.panel_width(column, p_.in.width),
                                 columns_of_token_.at(column * token_units_));
    });
  }

  // The weight's rows of a chunk in both orders: for the logits, and for the hidden's gradient.
  void pack_chunk(int64_t first, int64_t n) {
    const int64_t panels = kVocabularyBlock / engine_.columns;
    const int64_t width_panels = p_.grad_hidden ? divide_up(p_.in.width, engine_.columns) : 0;
    for_each_task(problem_.threads, n * (panels + width_panels), [&](int, int64_t task) {
      const int64_t i = task / (panels + width_panels), panel = task % (panels + width_panels);
      const int64_t words = problem_.words_in_block(first + i);
      if (panel < panels) {
        const int64_t column = panel * engine_.columns;
        if (column >= words) return;
        problem_.pack_words(first + i, column, words_.at(i * kVocabularyBlock * problem_.units));
        return;
      }
      const int64_t column = (panel - panels) * engine_.columns;
      const int64_t size = p_.in.bf16 ? 2 : 4;
      const char* row = static_cast<const char*>(p_.in.weight) +
                        (first + i) * kVocabularyBlock * p_.in.weight_stride * size;
      const Source weight{row, p_.in.bf16, p_.in.weight_stride, nullptr};
      const int64_t units = problem_.units_of(words);
      engine_.pack_word_rows(weight, words, units, column,
                             std::min<int64_t>(engine_.columns, p_.in.width - column),
                             problem_.panel_width(column, p_.in.width),
                             word_rows_.at(i * block_units() * width_ + column * units));
    });
  }

  // Each task owns a token block: logits again, their gradient, and the hidden's.
  void by_token(int64_t first, int64_t n) {
    const Tokens& tokens = problem_.tokens;
    for_each_task(problem_.threads, tokens.padded / kTokenBlock, [&](int worker, int64_t task) {
      const int64_t token = task * kTokenBlock;
      float* products = scratch_.at(worker * kScratch);
      float* rows = engine_.pairs ? products + kTokenBlock * kLogitsStride : products;
      int64_t targets[kTokenBlock];
      for (int64_t i = 0; i < n; ++i) {
        const int64_t block = first + i, words = problem_.words_in_block(block);
        problem_.logits(task, words_.at(i * kVocabularyBlock * problem_.units), words, products);
        tokens.targets_in_block(token, block * kVocabularyBlock, targets);
        const int64_t unit = token / (engine_.pairs ? 2 : 1);
        engine_.grad({products, words, problem_.rule(block), targets, lse_.at(token),
                      mass_.at(token), grad_.at(token), rows,
                      by_word_.at(i * kVocabularyBlock * token_units_ + unit * engine_.columns),
                      token_units_});
        if (p_.grad_hidden) {
          engine_.product_by_token(rows, kTokenBlock / engine_.rows,
                                   word_rows_.at(i * block_units() * width_), p_.in.width,
                                   problem_.units_of(words), hidden_grad_.at(token * width_),
                                   width_, block > 0);
        }
      }
    });
  }

  // Each task owns a panel of words and a part of the width: the weight's and the bias's gradient.
  void by_word(int64_t first, int64_t n) {
    const int64_t panels = kVocabularyBlock / engine_.columns;
    const int64_t parts = p_.grad_weight ? divide_up(p_.in.width, kWidthPart) : 1;
    for_each_task(problem_.threads, n * panels * parts, [&](int worker, int64_t task) {
      const int64_t part = task % parts, panel = task / parts;
      const int64_t block = first + panel / panels, column = panel % panels * engine_.columns;
      const int64_t word = block * kVocabularyBlock + column;
      const int64_t words = std::min<int64_t>(engine_.columns, p_.in.vocabulary - word);
      if (words <= 0) return;
      const float* grads = by_word_.at((panel / panels * kVocabularyBlock + column) * token_units_);
      if (p_.grad_weight) {
        const int64_t from = part * kWidthPart;
        const int64_t width = std::min(kWidthPart, p_.in.width - from);
        float* out = weight_scratch_.at(worker * engine_.columns * kWidthPart);
        engine_.product_by_word(grads, engine_.columns / engine_.rows,
                                columns_of_token_.at(from * token_units_), width, token_units_, out,
                                kWidthPart, false);
        for (int64_t i = 0; i < words; ++i) {
          store_elements(out + i * kWidthPart, width, p_.grad_weight,
                         (word + i) * p_.in.width + from, p_.in.bf16);
        }
      }
      if (p_.grad_bias && part == 0) {
        float sums[64];
        engine_.sum_words(grads, token_units_, sums);
        store_elements(sums, words, p_.grad_bias, word, p_.in.bf16);
      }
    });
  }

  void store_hidden_grad() {
    const Tokens& tokens = problem_.tokens;
    const size_t row_bytes = static_cast<size_t>(p_.in.width) * (p_.in.bf16 ? 2 : 4);
    if (tokens.count < p_.in.tokens) {
      std::memset(p_.grad_hidden, 0, row_bytes * static_cast<size_t>(p_.in.tokens));
    }
    for_each_task(problem_.threads, divide_up(tokens.count, 256), [&](int, int64_t task) {
      const int64_t end = std::min(tokens.count, (task + 1) * 256);
      for (int64_t i = task * 256; i < end; ++i) {
        store_elements(hidden_grad_.at(i * width_), p_.in.width, p_.grad_hidden,
                       tokens.row[i] * p_.in.width, p_.in.bf16);
      }
    });
  }

  const PassageLogpBackwardParams& p_;
  const Problem problem_;
  const Engine& engine_;
  const int64_t width_;        // H rounded up to whole vectors
  const int64_t token_units_;  // of the padded tokens
  const Buffer columns_of_token_, by_word_, hidden_grad_, words_, word_rows_, scratch_;
  const Buffer weight_scratch_, lse_, mass_, grad_;
};

}  // namespace

void passage_logp_backward_cpu(const PassageLogpBackwardParams& params, int threads) {
  Backward backward(params, threads);
  backward.run();
}

}  // namespace jsarag
