// 128-bit vectors in the compiler's own notation: any CPU. Included inside the namespace of one
// translation unit.

struct Simd {
  static constexpr int kLanes = 4;
  static constexpr int kMaxBlock = 4;
  static constexpr int kWideBlock = 1;
  static constexpr int kMaxFew = 2;
  typedef float F __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));
  using Sums = I;

  static F load(const float* p) {
    F x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  static I load_words(const uint32_t* p) {
    I x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  static void store(float* p, F x) { __builtin_memcpy(p, &x, sizeof x); }
  static void store_words(uint32_t* p, I x) { __builtin_memcpy(p, &x, sizeof x); }
  static F set(float x) { return F{x, x, x, x}; }
  static I set_word(uint32_t w) {
    const int32_t x = static_cast<int32_t>(w);
    return I{x, x, x, x};
  }
  static F fma(F a, F b, F c) { return a * b + c; }
  static F to_float(I x) { return __builtin_convertvector(x, F); }
  static F as_float(I x) { return (F)x; }
  static F choose(I mask, F yes, F no) { return (F)(((I)yes & mask) | ((I)no & ~mask)); }
  // NaN in the second argument wins, NaN in the first loses, as on x86.
  static F max(F a, F b) { return choose(a > b, a, b); }
  static F min(F a, F b) { return choose(a < b, a, b); }
  static uint32_t bits(I mask) {
    return (mask[0] & 1) | (mask[1] & 2) | (mask[2] & 4) | (mask[3] & 8);
  }
  static uint32_t above(F a, F b) { return bits(a > b); }
  static uint32_t not_below(F a, F b) { return bits(~(a < b)); }
  static F zero_below(F x, F limit, F value) { return choose(x < limit, set(0.0f), value); }
  // |x| < 2^22, or NaN.
  static F round(F x) {
    const F magic = set(12582912.0f);
    return (x + magic) - magic;
  }
  // n is a whole number in -126..127, or NaN beside a NaN x.
  static F times_power(F x, F n) {
    const F whole = choose(n == n, n, set(0.0f));
    return x * (F)((__builtin_convertvector(whole, I) + 127) << 23);
  }

  static constexpr bool kBf16Pairs = false;
  static F dot_bf16(F acc, I, I) { return acc; }
  static constexpr bool kI16Pairs = false;
  static Sums dot_i16(Sums acc, I, I) { return acc; }
  static Sums row_sums(const I (&rows)[4]) { return rows[0]; }

  static I words_f32(const void* p) { return load_words(static_cast<const uint32_t*>(p)); }
  static I words_f16(const void* p) {
    uint16_t half[4];
    __builtin_memcpy(half, p, sizeof half);
    return (I)F{half_value(half[0]), half_value(half[1]), half_value(half[2]), half_value(half[3])};
  }
  static I words_bf16(const void* p) {
    uint16_t half[4];
    __builtin_memcpy(half, p, sizeof half);
    return I{half[0], half[1], half[2], half[3]} << 16;
  }
  static I words_i8(const void* p) {
    int8_t x[4];
    __builtin_memcpy(x, p, sizeof x);
    return (I)F{float(x[0]), float(x[1]), float(x[2]), float(x[3])};
  }
  static I word_pairs_bf16(const void* p) { return words_f32(p); }
  static I word_pairs_i8(const void* p) { return words_i8(p); }

  // rows[i] = word i of what were rows 0..3.
  [[gnu::always_inline]] static void transpose(I (&rows)[4]) {
    const I a = rows[0], b = rows[1], c = rows[2], d = rows[3];
    for (int w = 0; w < 4; ++w) rows[w] = I{a[w], b[w], c[w], d[w]};
  }

  static float half_value(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000u) << 16, exponent = half >> 10 & 31u;
    const uint32_t fraction = half & 1023u;
    uint32_t word = 0;
    if (exponent == 31) {
      word = sign | 0x7f800000u | fraction << 13;
    } else if (exponent != 0) {
      word = sign | (exponent + 112) << 23 | fraction << 13;
    } else {
      const float tiny = float(fraction) * 5.9604644775390625e-08f;  // 2^-24
      __builtin_memcpy(&word, &tiny, sizeof word);
      word |= sign;
    }
    float value;
    __builtin_memcpy(&value, &word, sizeof value);
    return value;
  }
};
