// The kernels of scan_kernels.h, written once over `Simd` and compiled once per instruction set.
// Include inside an anonymous namespace, after simd_*.h. No std:: templates here: the linker may
// keep the copy compiled for the strongest CPU.

constexpr int kLanes = Simd::kLanes;
constexpr int kSlice = 2 * kLanes;
static_assert(kPanelRows % kSlice == 0 && kSlice <= kMaxSlice && Simd::kMaxBlock <= kMaxBlock);
static_assert(kStrands % kLanes == 0 && Simd::kMaxFew <= kMaxFew);

Arithmetic arithmetic_of(ScalarType type) {
  if (type == ScalarType::bf16 && Simd::kBf16Pairs) return Arithmetic::bf16_pairs;
  if (type == ScalarType::i8 && Simd::kI16Pairs) return Arithmetic::i16_pairs;
  return Arithmetic::f32;
}

// How one vector of words is read from a row: `kNumbers` numbers of `kBytes` each.
struct LoadF32 {
  static constexpr int kNumbers = kLanes, kBytes = 4;
  static Simd::I load(const void* p) { return Simd::words_f32(p); }
};
struct LoadF16 {
  static constexpr int kNumbers = kLanes, kBytes = 2;
  static Simd::I load(const void* p) { return Simd::words_f16(p); }
};
struct LoadBf16 {
  static constexpr int kNumbers = kLanes, kBytes = 2;
  static Simd::I load(const void* p) { return Simd::words_bf16(p); }
};
struct LoadI8 {
  static constexpr int kNumbers = kLanes, kBytes = 1;
  static Simd::I load(const void* p) { return Simd::words_i8(p); }
};
struct LoadBf16Pairs {
  static constexpr int kNumbers = 2 * kLanes, kBytes = 2;
  static Simd::I load(const void* p) { return Simd::word_pairs_bf16(p); }
};
struct LoadI8Pairs {
  static constexpr int kNumbers = 2 * kLanes, kBytes = 1;
  static Simd::I load(const void* p) { return Simd::word_pairs_i8(p); }
};

// The last, incomplete vector of a row: what lies behind the row is not ours to read.
template <class Load>
Simd::I load_tail(const char* p, int64_t numbers) {
  char padded[Load::kNumbers * Load::kBytes] = {};
  __builtin_memcpy(padded, p, static_cast<size_t>(numbers) * Load::kBytes);
  return Load::load(padded);
}

// Asks for `bytes` of memory from `p` on. In ascending order: the CPU's own prefetcher then
// follows, which it does not when sixteen rows are asked for in turn. Memory that does not exist is
// harmless.
template <int kBytes>
void prefetch(const char* p) {
  repeat<(kBytes + 63) / 64>([&](auto line) { __builtin_prefetch(p + line * 64, 0, 3); });
}

// Pointers to rows first .. first + kLanes, the last row standing in for those that do not exist.
void row_pointers(const PanelSource& source, int64_t first, const char* (&rows)[kLanes]) {
  for (int i = 0; i < kLanes; ++i) {
    const int64_t row = first + i < source.count ? first + i : source.count - 1;
    rows[i] = source.rows + row * source.row_bytes;
  }
}

template <class Load>
void pack_rows(const PanelSource& source, int64_t words, uint32_t* panel) {
  constexpr int kVectorBytes = Load::kNumbers * Load::kBytes;
  const int64_t full = source.width / Load::kNumbers;
  const int64_t tail = source.width - full * Load::kNumbers;
  const int64_t strand = words / kStrands;
  for (int64_t first = 0; first < source.count; first += kLanes) {
    // Slices of kSlice rows hold two groups of kLanes.
    uint32_t* out = panel + (first / kSlice) * words * kSlice + first % kSlice;
    const char* rows[kLanes];
    row_pointers(source, first, rows);
    const char* ahead = rows[0] + kLanes * source.row_bytes;
    Simd::I x[kLanes];
    for (int64_t v = 0; v < full; ++v) {
      repeat<kLanes>([&](auto i) { x[i] = Load::load(rows[i] + v * kVectorBytes); });
      prefetch<kLanes * kVectorBytes>(ahead + v * kLanes * kVectorBytes);
      Simd::transpose(x);
      uint32_t* to = out + (v * kLanes % kStrands * strand + v * kLanes / kStrands) * kSlice;
      repeat<kLanes>([&](auto i) { Simd::store_words(to + i * strand * kSlice, x[i]); });
    }
    for (int64_t v = full; v * kLanes < words; ++v) {
      const int64_t left = v == full ? tail : 0;
      for (int i = 0; i < kLanes; ++i) x[i] = load_tail<Load>(rows[i] + v * kVectorBytes, left);
      Simd::transpose(x);
      uint32_t* to = out + (v * kLanes % kStrands * strand + v * kLanes / kStrands) * kSlice;
      for (int i = 0; i < kLanes; ++i) Simd::store_words(to + i * strand * kSlice, x[i]);
    }
  }
  // An odd number of groups leaves half a slice: zero, so that no stale NaN slows the lanes.
  const int64_t groups = (source.count + kLanes - 1) / kLanes;
  if (groups % 2 == 1) {
    uint32_t* out = panel + (groups / 2) * words * kSlice + kLanes;
    for (int64_t w = 0; w < words; ++w) Simd::store_words(out + w * kSlice, Simd::set_word(0));
  }
}

void pack_panel(Arithmetic arithmetic, const PanelSource& source, int64_t words, uint32_t* panel) {
  switch (source.type) {
    case ScalarType::f32:
      return pack_rows<LoadF32>(source, words, panel);
    case ScalarType::f16:
      return pack_rows<LoadF16>(source, words, panel);
    case ScalarType::bf16:
      return arithmetic == Arithmetic::bf16_pairs ? pack_rows<LoadBf16Pairs>(source, words, panel)
                                                  : pack_rows<LoadBf16>(source, words, panel);
    case ScalarType::i8:
      return arithmetic == Arithmetic::i16_pairs ? pack_rows<LoadI8Pairs>(source, words, panel)
                                                 : pack_rows<LoadI8>(source, words, panel);
  }
}

float float_word(uint32_t word) {
  float value;
  __builtin_memcpy(&value, &word, sizeof value);
  return value;
}

// One word of many passages times one word of a query, into accumulators. Each keeps its own vector
// type from end to end: GCC does not hold an accumulator in a register across casts.
template <Arithmetic A>
struct Multiply;

template <>
struct Multiply<Arithmetic::f32> {
  using Sum = Simd::F;
  using Words = Simd::F;
  static Words load(const uint32_t* p) { return Simd::load(reinterpret_cast<const float*>(p)); }
  static Words words(Simd::I x) { return Simd::as_float(x); }
  static Words broadcast(uint32_t word) { return Simd::set(float_word(word)); }
  static Sum zero() { return Simd::set(0.0f); }
  static Sum add(Sum sum, Words x, Words y) { return Simd::fma(x, y, sum); }
  static Simd::F value(Sum sum) { return sum; }
};

template <>
struct Multiply<Arithmetic::bf16_pairs> {
  using Sum = Simd::F;
  using Words = Simd::I;
  static Words load(const uint32_t* p) { return Simd::load_words(p); }
  static Words words(Simd::I x) { return x; }
  static Words broadcast(uint32_t word) { return Simd::set_word(word); }
  static Sum zero() { return Simd::set(0.0f); }
  static Sum add(Sum sum, Words x, Words y) { return Simd::dot_bf16(sum, x, y); }
  static Simd::F value(Sum sum) { return sum; }
};

template <>
struct Multiply<Arithmetic::i16_pairs> {
  using Sum = Simd::Sums;
  using Words = Simd::I;
  static Words load(const uint32_t* p) { return Simd::load_words(p); }
  static Words words(Simd::I x) { return x; }
  static Words broadcast(uint32_t word) { return Simd::set_word(word); }
  static Sum zero() { return Sum{}; }
  static Sum add(Sum sum, Words x, Words y) { return Simd::dot_i16(sum, x, y); }
  static Simd::F value(Sum sum) { return Simd::to_float(sum); }
};

// R queries against V vectors of passages: slices `panel` and, for V = 4, the one behind it.
template <Arithmetic A, int R, int V>
void score_slices(const ScoreArguments& a, const uint32_t* panel, int64_t row) {
  using M = Multiply<A>;
  const int64_t next_slice = a.words * kSlice;
  // Integer sums are the same in any order. At least one: rows without numbers have an empty sum.
  const int64_t strands = A == Arithmetic::i16_pairs || a.words == 0 ? 1 : kStrands;
  const int64_t strand = a.words / strands;
  float* out = a.scores + row;
  for (int64_t s = 0; s < strands; ++s) {
    typename M::Sum acc[R][V];
    repeat<R>([&](auto r) { repeat<V>([&](auto v) { acc[r][v] = M::zero(); }); });
    const uint32_t* passages = panel + s * strand * kSlice;
    const uint32_t* query = a.queries + s * strand * R;
    for (int64_t w = 0; w < strand; ++w, passages += kSlice, query += R) {
      typename M::Words x[V];
      repeat<V>(
          [&](auto v) { x[v] = M::load(passages + (v / 2) * next_slice + (v % 2) * kLanes); });
      repeat<R>([&](auto r) {
        const typename M::Words y = M::broadcast(query[r]);
        repeat<V>([&](auto v) { acc[r][v] = M::add(acc[r][v], x[v], y); });
      });
    }
    const bool last = s + 1 == strands;
    repeat<R>([&](auto r) {
      repeat<V>([&](auto v) {
        float* to = out + r * kPanelRows + v * kLanes;
        Simd::F sum = M::value(acc[r][v]);
        if (s > 0) sum = Simd::load(to) + sum;
        if (last && a.query_scale) sum = sum * Simd::set(a.query_scale[r]);
        if (last && a.row_scale) sum = sum * Simd::load(a.row_scale + row + v * kLanes);
        Simd::store(to, sum);
      });
    });
  }
}

template <Arithmetic A, int R>
void score_block(const ScoreArguments& a) {
  const uint32_t* panel = a.panel;
  const int64_t slice_words = a.words * kSlice;
  int64_t row = 0;
  if constexpr (R <= Simd::kWideBlock) {
    for (; row + kSlice < a.rows; row += 2 * kSlice, panel += 2 * slice_words)
      score_slices<A, R, 4>(a, panel, row);
  }
  for (; row < a.rows; row += kSlice, panel += slice_words) score_slices<A, R, 2>(a, panel, row);
}

template <Arithmetic A, int R = Simd::kMaxBlock>
void score_any(const ScoreArguments& a) {
  if (a.block == R) return score_block<A, R>(a);
  if constexpr (R > 1) score_any<A, R - 1>(a);
}

void score(Arithmetic arithmetic, const ScoreArguments& arguments) {
  switch (arithmetic) {
    case Arithmetic::f32:
      return score_any<Arithmetic::f32>(arguments);
    case Arithmetic::bf16_pairs:
      if constexpr (Simd::kBf16Pairs) score_any<Arithmetic::bf16_pairs>(arguments);
      return;
    case Arithmetic::i16_pairs:
      if constexpr (Simd::kI16Pairs) score_any<Arithmetic::i16_pairs>(arguments);
      return;
  }
}

// The same sums for a few queries, straight from the rows in the order they lie in memory: kParts
// vectors hold one word of each strand, and the strands are added up at the end.
template <class Load, Arithmetic A, int R>
void score_few_rows(const PanelSource& source, const ScoreArguments& a) {
  using M = Multiply<A>;
  constexpr int kParts = kStrands / kLanes;
  // At a time: enough sums to hide the latency, few enough for the registers.
  constexpr int kRows = kParts > 1 ? 1 : R == 1 ? 8 : R == 2 ? 4 : 2;
  constexpr int kVectorBytes = Load::kNumbers * Load::kBytes;
  constexpr int kStepBytes = kParts * kVectorBytes;
  constexpr int64_t kAhead = 16384;  // bytes: past the next page, whose address is slow to find
  const int64_t full = source.width / Load::kNumbers;
  const int64_t tail = source.width - full * Load::kNumbers;
  const int64_t vectors = full + (tail > 0 ? 1 : 0);
  for (int64_t first = 0; first < source.count; first += kLanes) {
    const char* rows[kLanes];
    row_pointers(source, first, rows);
    alignas(64) uint32_t sums[R][kLanes][kStrands];
    for (int i = 0; i < kLanes; i += kRows) {
      typename M::Sum acc[kRows][kParts][R];
      repeat<kRows>([&](auto j) {
        repeat<kParts>([&](auto p) { repeat<R>([&](auto r) { acc[j][p][r] = M::zero(); }); });
      });
      for (int64_t step = 0; step * kParts < vectors; ++step) {
        repeat<kParts>([&](auto p) {
          const int64_t v = step * kParts + p;
          if (kParts > 1 && v >= vectors) return;
          typename M::Words y[R];
          repeat<R>([&](auto r) { y[r] = M::load(a.few + r * a.words + v * kLanes); });
          repeat<kRows>([&](auto j) {
            const char* at = rows[i + j] + v * kVectorBytes;
            const typename M::Words x =
                M::words(v < full ? Load::load(at) : load_tail<Load>(at, tail));
            repeat<R>([&](auto r) { acc[j][p][r] = M::add(acc[j][p][r], x, y[r]); });
          });
        });
        prefetch<kRows * kStepBytes>(rows[i] + kAhead + step * kRows * kStepBytes);
      }
      repeat<kRows>([&](auto j) {
        repeat<kParts>([&](auto p) {
          repeat<R>([&](auto r) {
            Simd::store_words(sums[r][i + j] + p * kLanes, (Simd::I)acc[j][p][r]);
          });
        });
      });
    }
    repeat<R>([&](auto r) {
      typename M::Sum total = M::zero();
      repeat<kParts>([&](auto p) {
        Simd::I x[kLanes];
        repeat<kLanes>([&](auto i) { x[i] = Simd::load_words(sums[r][i] + p * kLanes); });
        if constexpr (A == Arithmetic::i16_pairs) {
          // Integers: any order will do, and this one takes half the instructions.
          total = total + Simd::row_sums(x);
        } else {
          Simd::transpose(x);
          repeat<kLanes>([&](auto i) {
            // The first strand is taken as it is, as the panel's is.
            total = p == 0 && i == 0 ? (typename M::Sum)x[i] : total + (typename M::Sum)x[i];
          });
        }
      });
      Simd::F sum = M::value(total);
      if (a.query_scale) sum = sum * Simd::set(a.query_scale[r]);
      if (a.row_scale) sum = sum * Simd::load(a.row_scale + first);
      Simd::store(a.scores + r * kPanelRows + first, sum);
    });
  }
}

template <class Load, Arithmetic A, int R = Simd::kMaxFew>
void score_few_any(const PanelSource& source, const ScoreArguments& a) {
  if (a.block == R) return score_few_rows<Load, A, R>(source, a);
  if constexpr (R > 1) score_few_any<Load, A, R - 1>(source, a);
}

bool score_few(Arithmetic arithmetic, const PanelSource& source, const ScoreArguments& a) {
  if (a.block > Simd::kMaxFew || a.few == nullptr) return false;
  switch (arithmetic) {
    case Arithmetic::f32:
      switch (source.type) {
        case ScalarType::f32:
          score_few_any<LoadF32, Arithmetic::f32>(source, a);
          return true;
        case ScalarType::f16:
          score_few_any<LoadF16, Arithmetic::f32>(source, a);
          return true;
        case ScalarType::bf16:
          score_few_any<LoadBf16, Arithmetic::f32>(source, a);
          return true;
        case ScalarType::i8:
          score_few_any<LoadI8, Arithmetic::f32>(source, a);
          return true;
      }
      return false;
    case Arithmetic::bf16_pairs:
      if constexpr (Simd::kBf16Pairs)
        score_few_any<LoadBf16Pairs, Arithmetic::bf16_pairs>(source, a);
      return Simd::kBf16Pairs;
    case Arithmetic::i16_pairs:
      if constexpr (Simd::kI16Pairs) score_few_any<LoadI8Pairs, Arithmetic::i16_pairs>(source, a);
      return Simd::kI16Pairs;
  }
  return false;
}

// Appends the positions of the mask's bits that lie below count.
int append(uint32_t mask, int64_t first, int64_t count, int32_t* positions, int found) {
  while (mask != 0) {
    const int64_t position = first + __builtin_ctz(mask);
    mask &= mask - 1;
    if (position < count) positions[found++] = static_cast<int32_t>(position);
  }
  return found;
}

int select(const float* scores, int64_t count, float threshold, int32_t* positions) {
  const Simd::F limit = Simd::set(threshold);
  int found = 0;
  for (int64_t i = 0; i < count; i += kLanes) {
    const uint32_t mask = Simd::above(Simd::load(scores + i), limit);
    if (__builtin_expect(mask != 0, 0)) found = append(mask, i, count, positions, found);
  }
  return found;
}

int select_upper(const float* scores, const float* error, const float* norm, float a, float b,
                 int64_t count, float threshold, int32_t* positions) {
  const Simd::F limit = Simd::set(threshold), fa = Simd::set(a), fb = Simd::set(b);
  int found = 0;
  for (int64_t i = 0; i < count; i += kLanes) {
    const Simd::F slack = Simd::load(error + i) * fa + Simd::load(norm + i) * fb;
    const uint32_t mask = Simd::not_below(Simd::load(scores + i) + slack, limit);
    if (__builtin_expect(mask != 0, 0)) found = append(mask, i, count, positions, found);
  }
  return found;
}

// exp(x) for x <= 0 to about one unit in the last place; 0 below -87.3, NaN for NaN.
Simd::F exp_not_positive(Simd::F x) {
  const Simd::F floor = Simd::set(-87.33654f);
  // Bounds come first: so NaN, in second place, survives.
  const Simd::F y = Simd::min(Simd::set(0.0f), Simd::max(floor, x));
  const Simd::F n = Simd::round(y * Simd::set(1.44269504f));
  const Simd::F r =
      Simd::fma(n, Simd::set(2.12194440e-4f), Simd::fma(n, Simd::set(-0.693359375f), y));
  Simd::F p = Simd::set(1.9875691500e-4f);
  p = Simd::fma(p, r, Simd::set(1.3981999507e-3f));
  p = Simd::fma(p, r, Simd::set(8.3334519073e-3f));
  p = Simd::fma(p, r, Simd::set(4.1665795894e-2f));
  p = Simd::fma(p, r, Simd::set(1.6666665459e-1f));
  p = Simd::fma(p, r, Simd::set(5.0000001201e-1f));
  p = Simd::fma(p, r * r, r + Simd::set(1.0f));
  return Simd::zero_below(x, floor, Simd::times_power(p, n));
}

constexpr float kInfinity = __builtin_inff();
constexpr float kLargest = 3.4028234e38f;

// Scores behind count count as -inf.
Simd::F load_padded(const float* scores, int64_t i, int64_t count) {
  if (i + kLanes <= count) return Simd::load(scores + i);
  float padded[kLanes];
  for (int j = 0; j < kLanes; ++j) padded[j] = i + j < count ? scores[i + j] : -kInfinity;
  return Simd::load(padded);
}

void accumulate_lse(const float* scores, int64_t count, float factor, float* state) {
  const Simd::F f = Simd::set(factor);
  const Simd::F old = Simd::load(state);
  Simd::F peak = old;
  for (int64_t i = 0; i < count; i += kLanes)
    peak = Simd::max(load_padded(scores, i, count) * f, peak);
  // An infinite peak would make inf - inf of it; the reader of the state sees the true one.
  const Simd::F shift = Simd::min(Simd::set(kLargest), Simd::max(Simd::set(-kLargest), peak));
  Simd::F sum = Simd::load(state + kLanes) * exp_not_positive(old - shift);
  for (int64_t i = 0; i < count; i += kLanes)
    sum = sum + exp_not_positive(load_padded(scores, i, count) * f - shift);
  Simd::store(state, peak);
  Simd::store(state + kLanes, sum);
}

void softmax_weights(const float* scores, int64_t count, float factor, float shift,
                     float* weights) {
  const Simd::F f = Simd::set(factor), s = Simd::set(shift);
  for (int64_t i = 0; i < count; i += kLanes) {
    const Simd::F x = load_padded(scores, i, count) * f - s;
    Simd::store(weights + i, exp_not_positive(x));
  }
}

template <class Load, int R>
void accumulate_block(const PanelSource& source, const float* weights, float* gradient) {
  constexpr int kVectors = 2;
  constexpr int64_t kColumns = kVectors * kLanes;
  const int64_t width = source.width;
  for (int64_t column = 0; column < width; column += kColumns) {
    const bool whole = column + kColumns <= width;
    Simd::F acc[R][kVectors];
    repeat<R>([&](auto r) { repeat<kVectors>([&](auto v) { acc[r][v] = Simd::set(0.0f); }); });
    for (int64_t i = 0; i < source.count; ++i) {
      const char* row = source.rows + i * source.row_bytes;
      Simd::F x[kVectors];
      repeat<kVectors>([&](auto v) {
        const int64_t at = column + v * kLanes;
        const int64_t left = width - at;
        x[v] = whole || left >= kLanes ? Simd::as_float(Load::load(row + at * Load::kBytes))
               : left > 0 ? Simd::as_float(load_tail<Load>(row + at * Load::kBytes, left))
                          : Simd::set(0.0f);
      });
      repeat<R>([&](auto r) {
        const Simd::F w = Simd::set(weights[r * kPanelRows + i]);
        repeat<kVectors>([&](auto v) { acc[r][v] = Simd::fma(x[v], w, acc[r][v]); });
      });
    }
    const int64_t left = whole ? kColumns : width - column;
    repeat<R>([&](auto r) {
      float* to = gradient + r * width + column;
      float sums[kColumns];
      repeat<kVectors>([&](auto v) { Simd::store(sums + v * kLanes, acc[r][v]); });
      for (int64_t c = 0; c < left; ++c) to[c] += sums[c];
    });
  }
}

template <class Load, int R = Simd::kMaxBlock>
void accumulate_any(const PanelSource& source, const float* weights, int block, float* gradient) {
  if (block == R) return accumulate_block<Load, R>(source, weights, gradient);
  if constexpr (R > 1) accumulate_any<Load, R - 1>(source, weights, block, gradient);
}

void accumulate_rows(const PanelSource& source, const float* weights, int block, float* gradient) {
  if (block > Simd::kMaxBlock) {
    accumulate_rows(source, weights, Simd::kMaxBlock, gradient);
    weights += Simd::kMaxBlock * kPanelRows;
    gradient += Simd::kMaxBlock * source.width;
    return accumulate_rows(source, weights, block - Simd::kMaxBlock, gradient);
  }
  switch (source.type) {
    case ScalarType::f32:
      return accumulate_any<LoadF32>(source, weights, block, gradient);
    case ScalarType::f16:
      return accumulate_any<LoadF16>(source, weights, block, gradient);
    case ScalarType::bf16:
      return accumulate_any<LoadBf16>(source, weights, block, gradient);
    case ScalarType::i8:
      return accumulate_any<LoadI8>(source, weights, block, gradient);
  }
}

constexpr ScanKernels make_kernels(const char* name) {
  return {name,   kSlice,        Simd::kMaxBlock, Simd::kMaxFew,   0,
          kLanes, arithmetic_of, pack_panel,      score,           score_few,
          select, select_upper,  accumulate_lse,  softmax_weights, accumulate_rows};
}
