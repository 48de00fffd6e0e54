// Which version of a kernel that is compiled by hand for several processors runs on this one.
#pragma once

namespace luthier {

enum class Level { kPlain, kAvx2, kAvx512 };

inline Level processor() {
#if defined(__x86_64__)
  static const Level level = [] {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512cd")) {
      return Level::kAvx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi2")) {
      return Level::kAvx2;
    }
    return Level::kPlain;
  }();
  return level;
#else
  return Level::kPlain;
#endif
}

}  // namespace luthier

#if defined(__x86_64__)
#define LUTHIER_AVX2 __attribute__((target("arch=x86-64-v3")))
#define LUTHIER_AVX512 __attribute__((target("arch=x86-64-v4")))
#else
#define LUTHIER_AVX2
#define LUTHIER_AVX512
#endif
