#pragma once

#include "jsarag/scan.h"

namespace jsarag::cpu {

// scan with results identical to a scan of params.certify->exact; see scan_certified.cpp.
void scan_certified(const ScanParams& params);

}  // namespace jsarag::cpu
