// 256-bit vectors: what scan_kernels_body.h needs of an instruction set. Included inside the
// namespace of one translation unit, after <immintrin.h>.

struct Simd {
  static constexpr int kLanes = 8;
  static constexpr int kMaxBlock = 6;  // 6 queries x 2 vectors = 12 accumulators of 16 registers
  static constexpr int kWideBlock = 2;
  static constexpr int kMaxFew = 4;
  using F = __m256;
  using I = __m256i;
  typedef int32_t Sums __attribute__((vector_size(32)));

  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static I load_words(const uint32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static void store_words(uint32_t* p, I x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x);
  }
  static F set(float x) { return _mm256_set1_ps(x); }
  static I set_word(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F to_float(Sums x) { return _mm256_cvtepi32_ps((I)x); }
  // NaN in the second argument wins, NaN in the first loses: x86's own rule, relied on here.
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static uint32_t above(F a, F b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)); }
  static uint32_t not_below(F a, F b) {
    return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NLT_UQ));
  }
  static F zero_below(F x, F limit, F value) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, limit, _CMP_LT_OQ), value);
  }
  static F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // n is a whole number in -126..127, or NaN beside a NaN x.
  static F times_power(F x, F n) {
    const I power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), set_word(127)), 23);
    return _mm256_mul_ps(x, _mm256_castsi256_ps(power));
  }

  static constexpr bool kBf16Pairs = false;
  static F dot_bf16(F acc, I, I) { return acc; }
  static constexpr bool kI16Pairs = true;
  static Sums dot_i16(Sums acc, I x, I y) { return acc + (Sums)_mm256_madd_epi16(x, y); }
  static F as_float(I x) { return _mm256_castsi256_ps(x); }

  // 8 words of a row, from 8 numbers or, for pairs, 16.
  static I words_f32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static I words_f16(const void* p) {
    return _mm256_castps_si256(_mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))));
  }
  static I words_bf16(const void* p) {
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))),
                             16);
  }
  static I words_i8(const void* p) {
    return _mm256_castps_si256(
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)))));
  }
  static I word_pairs_bf16(const void* p) { return words_f32(p); }
  static I word_pairs_i8(const void* p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }

  // rows[i] = word i of what were rows 0..7.
  [[gnu::always_inline]] static void transpose(I (&rows)[8]) {
    I a[8], b[8];
    repeat<4>([&](auto i) {
      a[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
      a[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    });
    repeat<2>([&](auto i) {
      b[4 * i] = _mm256_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
      b[4 * i + 1] = _mm256_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
      b[4 * i + 2] = _mm256_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
      b[4 * i + 3] = _mm256_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    });
    repeat<4>([&](auto c) {
      rows[c] = _mm256_permute2x128_si256(b[c], b[4 + c], 0x20);
      rows[4 + c] = _mm256_permute2x128_si256(b[c], b[4 + c], 0x31);
    });
  }

  // Element i is the sum of row i's words.
  [[gnu::always_inline]] static Sums row_sums(const I (&rows)[8]) {
    I a[4], b[2];
    repeat<4>([&](auto i) { a[i] = _mm256_hadd_epi32(rows[2 * i], rows[2 * i + 1]); });
    repeat<2>([&](auto i) { b[i] = _mm256_hadd_epi32(a[2 * i], a[2 * i + 1]); });
    return (Sums)_mm256_add_epi32(_mm256_permute2x128_si256(b[0], b[1], 0x20),
                                  _mm256_permute2x128_si256(b[0], b[1], 0x31));
  }
};
