// Philox4x32-10, a counter-based generator: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw,
// "Parallel random numbers: as easy as 1, 2, 3", SC 2011, doi:10.1145/2063384.2063405.
// A draw is a function of a 64-bit key and a 128-bit counter, and of nothing else.
#pragma once

#include "common.h"

#include <cmath>
#include <cstdint>

namespace luthier::philox {

constexpr uint32_t kMul0 = 0xD2511F53u;
constexpr uint32_t kMul1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u;
constexpr uint32_t kWeyl1 = 0xBB67AE85u;
constexpr int kRounds = 10;

// How the last dimension is laid over counters: tiles of 64 elements; a tile is 16 counters
// (lanes), each giving 4 words; element `d` takes word (d / 16) % 4 of counter
// (d / 64) * 16 + d % 16. The word is the slow index so that a vector of lanes is stored as it
// lies in registers.
constexpr int64_t kLanes = 16;
constexpr int64_t kTile = 4 * kLanes;

// Draws of `Tiles` neighbouring tiles; the first counter word runs from `first` upwards.
template <int Tiles>
LUTHIER_INLINE void tiles(uint32_t* __restrict out, uint32_t first, uint32_t c1, uint32_t c2,
                          uint32_t c3, uint32_t k0, uint32_t k1) {
  constexpr int n = Tiles * kLanes;
  uint32_t w0[n], w1[n], w2[n], w3[n];
  for (int i = 0; i < n; i++) {
    w0[i] = first + static_cast<uint32_t>(i);
    w1[i] = c1;
    w2[i] = c2;
    w3[i] = c3;
  }
#pragma GCC unroll 10
  for (int round = 0; round < kRounds; round++) {
    for (int i = 0; i < n; i++) {
      const uint64_t p0 = static_cast<uint64_t>(kMul0) * w0[i];
      const uint64_t p1 = static_cast<uint64_t>(kMul1) * w2[i];
      w0[i] = static_cast<uint32_t>(p1 >> 32) ^ w1[i] ^ k0;
      w1[i] = static_cast<uint32_t>(p1);
      w2[i] = static_cast<uint32_t>(p0 >> 32) ^ w3[i] ^ k1;
      w3[i] = static_cast<uint32_t>(p0);
    }
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  for (int t = 0; t < Tiles; t++) {
    for (int i = 0; i < kLanes; i++) {
      out[t * kTile + i] = w0[t * kLanes + i];
      out[t * kTile + kLanes + i] = w1[t * kLanes + i];
      out[t * kTile + 2 * kLanes + i] = w2[t * kLanes + i];
      out[t * kTile + 3 * kLanes + i] = w3[t * kLanes + i];
    }
  }
}

// The factors of dropout for a row of `n` elements: 0 where its draw is below `threshold`, else `scale`.
LUTHIER_INLINE void factors(float* out, int64_t n, uint32_t threshold, float scale, uint32_t c1,
                            uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
  alignas(64) uint32_t draws[2 * kTile];
  int64_t at = 0;
  // Two tiles at a time hide the latency of the multiplications.
  for (; at + kTile < n; at += 2 * kTile) {
    tiles<2>(draws, static_cast<uint32_t>(at / kTile * kLanes), c1, c2, c3, k0, k1);
    const int64_t left = n - at < 2 * kTile ? n - at : 2 * kTile;
    for (int64_t i = 0; i < left; i++) {
      out[at + i] = draws[i] >= threshold ? scale : 0.0f;
    }
  }
  if (at < n) {
    tiles<1>(draws, static_cast<uint32_t>(at / kTile * kLanes), c1, c2, c3, k0, k1);
    for (int64_t i = 0; i < n - at; i++) {
      out[at + i] = draws[i] >= threshold ? scale : 0.0f;
    }
  }
}

// What of `p` an element needs: it is kept where its draw is not below `threshold`.
struct Rate {
  explicit Rate(double p)
      : threshold(static_cast<uint32_t>(std::fmin(std::round(p * 0x1p32), 0x1p32 - 1))),
        scale(p == 1.0 ? 0.0 : 1.0 / (1.0 - p)) {}
  uint32_t threshold;
  double scale;
};

}  // namespace luthier::philox
