// Vectors of 16 floats, and what attention and norms need of them. GCC and clang lower them to one
// register, two or four, as the clone that they are inlined into allows.
#pragma once

#include "common.h"

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>

namespace luthier::vec {

constexpr int64_t kWidth = 16;
typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));

constexpr int64_t rounded(int64_t n) { return (n + kWidth - 1) / kWidth * kWidth; }

LUTHIER_INLINE void load(v16& out, const float* from) { std::memcpy(&out, from, sizeof(out)); }
LUTHIER_INLINE void store(float* to, const v16& value) { std::memcpy(to, &value, sizeof(value)); }

LUTHIER_INLINE void fill(v16& out, float value) { out = v16{} + value; }

// 0, 1, …, 15
LUTHIER_INLINE void lanes(i16& out) {
  for (int i = 0; i < kWidth; i++) {
    out[i] = i;
  }
}

// A fixed tree of sums: the same bits on every processor.
LUTHIER_INLINE float sum(const v16& x) {
  float s[kWidth];
  std::memcpy(s, &x, sizeof(s));
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) {
      s[i] += s[i + half];
    }
  }
  return s[0];
}

LUTHIER_INLINE float max(const v16& x) {
  float s[kWidth];
  std::memcpy(s, &x, sizeof(s));
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) {
      s[i] = s[i] < s[i + half] ? s[i + half] : s[i];
    }
  }
  return s[0];
}

// e^x for x ≤ 88, relative error below 2e-7; 0 below -87. Range reduction by ln 2 in two parts and
// a polynomial of degree 6 (S. L. Moshier, Cephes, expf).
LUTHIER_INLINE void exp(v16& out, const v16& x) {
  const i16 tiny = x < -87.0f;
  const v16 z = tiny ? v16{} : x;
  constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer
  const v16 n = (z * 1.44269504088896341f + kRound) - kRound;
  const v16 r = z - n * 0.693359375f - n * -2.12194440e-4f;
  v16 p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const i16 exponent = (__builtin_convertvector(n, i16) + 127) << 23;
  v16 power;
  std::memcpy(&power, &exponent, sizeof(power));
  out = tiny ? v16{} : p * power;
}

// Rows of other types in and out of float buffers.
LUTHIER_INLINE float to_float(float x) { return x; }
LUTHIER_INLINE float to_float(c10::BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.x) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}
LUTHIER_INLINE void from_float(float& out, float x) { out = x; }
// Round to nearest even; NaN stays NaN.
LUTHIER_INLINE void from_float(c10::BFloat16& out, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  out.x = static_cast<uint16_t>(x != x ? 0x7FC0u : rounded);
}

template <typename T>
LUTHIER_INLINE void widen(float* __restrict out, const T* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    out[i] = to_float(x[i]);
  }
}

template <typename T>
LUTHIER_INLINE void narrow(T* __restrict out, const float* __restrict x, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    from_float(out[i], x[i]);
  }
}

}  // namespace luthier::vec
