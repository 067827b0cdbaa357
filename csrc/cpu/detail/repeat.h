// Loops unrolled by the language. GCC unrolls `#pragma GCC unroll` loops too late to keep an array
// of accumulators in registers: it then stores them all in every round, at a third of the speed.
// Included inside the namespace of one translation unit.

template <int N>
struct Int {
  constexpr operator int() const { return N; }
};

// body(Int<0>), ..., body(Int<N - 1>).
template <int N, class Body>
[[gnu::always_inline]] inline void repeat(const Body& body) {
  if constexpr (N > 0) {
    repeat<N - 1>(body);
    body(Int<N - 1>{});
  }
}
