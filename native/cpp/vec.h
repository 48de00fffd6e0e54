// Vectors of 16 floats, and what attention and norms need of them: as one register, or as two halves
// where registers hold 8. (GCC 12 takes a vector that is wider than a register apart in memory.)
#pragma once

#include "common.h"

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace luthier::vec {

constexpr int64_t kWidth = 16;
typedef float v16 __attribute__((vector_size(64)));
typedef int32_t i16 __attribute__((vector_size(64)));
typedef float v8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));

// The same 16 lanes as two vectors.
template <typename Half>
struct Two {
  Half lo, hi;
};

template <bool Wide>
using Floats = std::conditional_t<Wide, v16, Two<v8>>;

constexpr int64_t rounded(int64_t n) { return (n + kWidth - 1) / kWidth * kWidth; }

LUTHIER_INLINE void load(v16& out, const float* from) { std::memcpy(&out, from, sizeof(out)); }
LUTHIER_INLINE void store(float* to, const v16& value) { std::memcpy(to, &value, sizeof(value)); }
LUTHIER_INLINE void load(Two<v8>& out, const float* from) {
  std::memcpy(&out.lo, from, sizeof(v8));
  std::memcpy(&out.hi, from + 8, sizeof(v8));
}
LUTHIER_INLINE void store(float* to, const Two<v8>& value) {
  std::memcpy(to, &value.lo, sizeof(v8));
  std::memcpy(to + 8, &value.hi, sizeof(v8));
}

LUTHIER_INLINE void fill(v16& out, float value) { out = v16{} + value; }
LUTHIER_INLINE void fill(Two<v8>& out, float value) { out.lo = out.hi = v8{} + value; }

LUTHIER_INLINE void add(v16& to, const v16& x) { to += x; }
LUTHIER_INLINE void add(Two<v8>& to, const Two<v8>& x) {
  to.lo += x.lo;
  to.hi += x.hi;
}

// to += a · b
LUTHIER_INLINE void add_product(v16& to, const v16& a, const v16& b) { to += a * b; }
LUTHIER_INLINE void add_product(Two<v8>& to, const Two<v8>& a, const Two<v8>& b) {
  to.lo += a.lo * b.lo;
  to.hi += a.hi * b.hi;
}
LUTHIER_INLINE void add_product(v16& to, float a, const v16& b) { to += a * b; }
LUTHIER_INLINE void add_product(Two<v8>& to, float a, const Two<v8>& b) {
  to.lo += a * b.lo;
  to.hi += a * b.hi;
}

LUTHIER_INLINE void greater(v16& to, const v16& x) { to = x > to ? x : to; }
LUTHIER_INLINE void greater(Two<v8>& to, const Two<v8>& x) {
  to.lo = x.lo > to.lo ? x.lo : to.lo;
  to.hi = x.hi > to.hi ? x.hi : to.hi;
}

// Lanes from `count` on become 0.
LUTHIER_INLINE void keep_first(v16& x, int32_t count) {
  constexpr i16 lane{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  x = lane < count ? x : v16{};
}
LUTHIER_INLINE void keep_first(Two<v8>& x, int32_t count) {
  constexpr i8 lane{0, 1, 2, 3, 4, 5, 6, 7};
  x.lo = lane < count ? x.lo : v8{};
  x.hi = lane < count - 8 ? x.hi : v8{};
}

// Lanes before `count` become 0.
LUTHIER_INLINE void leave_first(v16& x, int32_t count) {
  constexpr i16 lane{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  x = lane < count ? v16{} : x;
}
LUTHIER_INLINE void leave_first(Two<v8>& x, int32_t count) {
  constexpr i8 lane{0, 1, 2, 3, 4, 5, 6, 7};
  x.lo = lane < count ? v8{} : x.lo;
  x.hi = lane < count - 8 ? v8{} : x.hi;
}

// A fixed tree of sums: the same bits on every processor.
template <typename V>
LUTHIER_INLINE float sum(const V& x) {
  float s[kWidth];
  store(s, x);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) {
      s[i] += s[i + half];
    }
  }
  return s[0];
}

// The sum of a row whose length is a multiple of vectors.
LUTHIER_INLINE float row_sum(const float* x, int64_t dp) {
  Floats<false> total{};
  for (int64_t j = 0; j < dp; j += kWidth) {
    Floats<false> v;
    load(v, x + j);
    add(total, v);
  }
  return sum(total);
}

template <typename V>
LUTHIER_INLINE float max(const V& x) {
  float s[kWidth];
  store(s, x);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) {
      s[i] = s[i] < s[i + half] ? s[i + half] : s[i];
    }
  }
  return s[0];
}

// e^(x - shift) for x - shift ≤ 88, relative error below 2e-7; 0 below -87. Range reduction by ln 2 in
// two parts and a polynomial of degree 6 (S. L. Moshier, Cephes, expf).
template <typename V, typename I>
LUTHIER_INLINE void exp_of(V& out, const V& from, float shift) {
  const V x = from - shift;
  const I tiny = x < -87.0f;
  const V z = tiny ? V{} : x;
  constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer
  const V n = (z * 1.44269504088896341f + kRound) - kRound;
  const V r = z - n * 0.693359375f - n * -2.12194440e-4f;
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const I exponent = (__builtin_convertvector(n, I) + 127) << 23;
  V power;
  std::memcpy(&power, &exponent, sizeof(power));
  out = tiny ? V{} : p * power;
}
LUTHIER_INLINE void exp(v16& x, float shift) { exp_of<v16, i16>(x, x, shift); }
LUTHIER_INLINE void exp(Two<v8>& x, float shift) {
  exp_of<v8, i8>(x.lo, x.lo, shift);
  exp_of<v8, i8>(x.hi, x.hi, shift);
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
