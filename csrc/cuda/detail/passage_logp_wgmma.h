// passage_logp's products by TMA and wgmma: compute capability 9.0, bf16, 16-byte aligned rows.
#pragma once

#include <cstdint>

#include "cuda/detail/passage_logp_product.h"

namespace jsarag::cuda::passage_logp {

// Words per tile, the unit of ForwardOutput::partials.
constexpr int kWgmmaTile = 256;

#if JSARAG_WITH_CUTLASS
// Whether they take these operands on this device. Does not wait.
bool wgmma_fits(const Product& product, int device);

void launch_wgmma(const Product& product, const ForwardOutput& to, int device, void* stream);
void launch_wgmma(const Product& product, const BackwardOutput& to, int device, void* stream);
#else
inline bool wgmma_fits(const Product&, int) { return false; }
template <class Output>
void launch_wgmma(const Product&, const Output&, int, void*) {}
#endif

}  // namespace jsarag::cuda::passage_logp
