// What every AMX kernel needs around its tile instructions. Included inside the namespace of a
// translation unit compiled for AMX, after <immintrin.h>.

// The compiler does not know that tile instructions touch memory.
inline void fence() { __asm__ volatile("" ::: "memory"); }

// Configures all eight tiles as 16 rows of 64 bytes, and puts back what was there before: the
// thread may be torch's, whose kernels remember what they configured.
class TileState {
 public:
  TileState() {
    _tile_storeconfig(before_);
    alignas(64) unsigned char wanted[64] = {};
    wanted[0] = 1;  // palette
    for (int tile = 0; tile < 8; ++tile) {
      wanted[16 + 2 * tile] = 64;  // bytes per row
      wanted[48 + tile] = 16;      // rows
    }
    fence();
    _tile_loadconfig(wanted);
  }
  ~TileState() {
    fence();
    if (before_[0] != 0) {
      _tile_loadconfig(before_);
    } else {
      _tile_release();
    }
  }
  TileState(const TileState&) = delete;
  TileState& operator=(const TileState&) = delete;

 private:
  alignas(64) unsigned char before_[64];
};
