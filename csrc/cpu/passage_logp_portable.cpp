// passage_logp for any CPU: the compiler's four-lane vectors, f32 units.
#include "cpu/detail/passage_logp_kernels.h"

namespace jsarag::cpu {
namespace {

struct Portable {
  typedef float F __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));
  static constexpr int kLanes = 4, kRows = 4, kVectors = 2;
  static constexpr int64_t kUnitBlock = 256, kSquare = 0;

  static F load(const float* p) {
    F a;
    std::memcpy(&a, p, sizeof a);
    return a;
  }
  static void store(float* p, F a) { std::memcpy(p, &a, sizeof a); }
  static F set1(float a) { return F{a, a, a, a}; }
  static F zero() { return F{}; }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  static F fma(F a, F b, F c) { return a * b + c; }
  static F max(F a, F b) { return choose(a > b, a, b); }
  static F abs(F a) { return as_float(as_int(a) & 0x7fffffff); }
  // Adding and taking off 1.5 * 2^23 rounds to an integer (to even) for |a| < 2^22.
  static F round(F a) {
    const F magic = set1(12582912.0f);
    return (a + magic) - magic;
  }
  static F scale2(F a, F n) {
    const I exponent = __builtin_convertvector(choose(n == n, n, zero()), I) + 127;
    const F scaled = a * as_float((exponent << 23) & (exponent > 0));
    return choose(a == a, scaled, a);
  }
  static F less(F a, F b, F then, F other) { return choose(a < b, then, other); }
  static float sum(F a) { return (a[0] + a[2]) + (a[1] + a[3]); }
  static float highest(F a) {
    float best = a[0];
    for (int i = 1; i < kLanes; ++i) best = a[i] > best ? a[i] : best;
    return best;
  }
  static F dot(F sum, F a, F b) { return a * b + sum; }
  static void spread(const GradBlock& block, int64_t padded) {
    spread_f32<Portable>(block, padded);
  }
  static void sum_words(const float* by_word, int64_t token_units, float* out) {
    sum_words_f32<Portable>(by_word, token_units, out);
  }

 private:
  static I as_int(F a) {
    I bits;
    std::memcpy(&bits, &a, sizeof bits);
    return bits;
  }
  static F as_float(I bits) {
    F a;
    std::memcpy(&a, &bits, sizeof a);
    return a;
  }
  static F choose(I mask, F then, F other) {
    return as_float((as_int(then) & mask) | (as_int(other) & ~mask));
  }
};

}  // namespace

const Engine kPassageLogpPortable = make_engine<Portable, false>();

}  // namespace jsarag::cpu
