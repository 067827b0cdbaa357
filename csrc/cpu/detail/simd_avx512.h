// 512-bit vectors: what scan_kernels_body.h needs of an instruction set. Included inside the
// namespace of one translation unit, after <immintrin.h>.

struct Simd {
  static constexpr int kLanes = 16;
  static constexpr int kMaxBlock = 12;  // 12 queries x 2 vectors = 24 accumulators of 32 registers
  static constexpr int kWideBlock = 6;  // up to here, 4 vectors a query hide the latency better
  static constexpr int kMaxFew = 8;
  using F = __m512;
  using I = __m512i;
  typedef int32_t Sums __attribute__((vector_size(64)));

  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static I load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static void store_words(uint32_t* p, I x) { _mm512_storeu_si512(p, x); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static I set_word(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F to_float(Sums x) { return _mm512_cvtepi32_ps((I)x); }
  // NaN in the second argument wins, NaN in the first loses: x86's own rule, relied on here.
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static uint32_t above(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  static uint32_t not_below(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ); }
  static F zero_below(F x, F limit, F value) {
    return _mm512_mask_mov_ps(value, _mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), _mm512_setzero_ps());
  }
  static F round(F x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static F times_power(F x, F n) { return _mm512_scalef_ps(x, n); }

#if defined(__AVX512BF16__)
  static constexpr bool kBf16Pairs = true;
  static F dot_bf16(F acc, I x, I y) { return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)y); }
#else
  static constexpr bool kBf16Pairs = false;
  static F dot_bf16(F acc, I, I) { return acc; }
#endif
  static constexpr bool kI16Pairs = true;
  static Sums dot_i16(Sums acc, I x, I y) { return (Sums)_mm512_dpwssd_epi32((I)acc, x, y); }
  static F as_float(I x) { return _mm512_castsi512_ps(x); }

  // 16 words of a row, from 16 numbers or, for pairs, 32.
  static I words_f32(const void* p) { return _mm512_loadu_si512(p); }
  static I words_f16(const void* p) {
    return _mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))));
  }
  static I words_bf16(const void* p) {
    return _mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16);
  }
  static I words_i8(const void* p) {
    return _mm512_castps_si512(
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)))));
  }
  static I word_pairs_bf16(const void* p) { return _mm512_loadu_si512(p); }
  static I word_pairs_i8(const void* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }

  // rows[i] = word i of what were rows 0..15.
  [[gnu::always_inline]] static void transpose(I (&rows)[16]) {
    I a[16], b[16];
    repeat<8>([&](auto i) {
      a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
      a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    });
    repeat<4>([&](auto i) {
      b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
      b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
      b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
      b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
    });
    // b[4g + c] holds, in its four 128-bit parts q, word 4q + c of rows 4g .. 4g+3.
    repeat<4>([&](auto c) {
      const I low02 = _mm512_shuffle_i32x4(b[c], b[4 + c], 0x88);
      const I low13 = _mm512_shuffle_i32x4(b[c], b[4 + c], 0xdd);
      const I high02 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0x88);
      const I high13 = _mm512_shuffle_i32x4(b[8 + c], b[12 + c], 0xdd);
      rows[c] = _mm512_shuffle_i32x4(low02, high02, 0x88);
      rows[4 + c] = _mm512_shuffle_i32x4(low13, high13, 0x88);
      rows[8 + c] = _mm512_shuffle_i32x4(low02, high02, 0xdd);
      rows[12 + c] = _mm512_shuffle_i32x4(low13, high13, 0xdd);
    });
  }

  // Element i is the sum of row i's words.
  [[gnu::always_inline]] static Sums row_sums(const I (&rows)[16]) {
    I a[8], b[4], c[2];
    repeat<8>([&](auto i) {
      a[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]),
                              _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]));
    });
    repeat<4>([&](auto i) {
      b[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a[2 * i], a[2 * i + 1]),
                              _mm512_unpackhi_epi64(a[2 * i], a[2 * i + 1]));
    });
    // b[g] holds, in each of its four 128-bit parts, a share of the sums of rows 4g .. 4g+3.
    const auto halves = [](I x, I y) {
      return _mm512_add_epi32(_mm512_shuffle_i32x4(x, y, 0x88), _mm512_shuffle_i32x4(x, y, 0xdd));
    };
    repeat<2>([&](auto i) { c[i] = halves(b[2 * i], b[2 * i + 1]); });
    return (Sums)halves(c[0], c[1]);
  }
};
