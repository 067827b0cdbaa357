// Which kernels the running CPU can execute; decided once.
#pragma once

namespace jsarag::cpu {

enum class Isa : int { portable = 0, avx2 = 1, avx512 = 2, avx512bf16 = 3, amx = 4 };

// The best instruction set the CPU and the operating system support, lowered by the environment
// variable JSARAG_CPU_ISA (portable, avx2, avx512, avx512bf16, amx) where a test or a comparison
// wants less. Each includes all before it.
Isa best_isa();

}  // namespace jsarag::cpu
