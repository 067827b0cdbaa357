// Products in the registers of a lane as PTX says that wgmma m64n256k16 leaves them, without wgmma.
#pragma once

namespace emulated {

// product(row, column) for the 16 rows of a warp from row0 and 256 columns from column0. Beyond the
// matrix, of rows by columns, TMA gives zeros.
template <class Product>
void fill_registers(float* registers, int row0, int column0, int rows, int columns, int lane,
                    const Product& product) {
  // PTX ISA, wgmma's D: d[4 i + 2 h + c] is row lane / 4 + 8 h, column 8 i + 2 (lane % 4) + c.
  for (int i = 0; i < 256 / 8; ++i)
    for (int h = 0; h < 2; ++h)
      for (int c = 0; c < 2; ++c) {
        const int row = row0 + lane / 4 + 8 * h, column = column0 + 8 * i + 2 * (lane % 4) + c;
        registers[4 * i + 2 * h + c] =
            row < rows && column < columns ? static_cast<float>(product(row, column)) : 0.0f;
      }
}

}  // namespace emulated
