// Shared by every C function of this crate: errors as values, lists of tensors, and the processor
// versions that a kernel is compiled for.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstddef>
#include <cstring>
#include <exception>
#include <optional>
#include <vector>

// One loop, compiled for AVX-512, AVX2 and plain x86-64, chosen when the program is loaded. With
// -ffp-contract=off and no reassociation each version gives the same bits.
#if defined(__x86_64__)
#define LUTHIER_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define LUTHIER_CLONES
#endif
#define LUTHIER_INLINE inline __attribute__((always_inline))

namespace luthier {

// Runs `f`; returns null, or a message that the caller frees with `luthier_free_error`.
// No exception may cross into Rust.
template <typename F>
char* guarded(F&& f) noexcept {
  try {
    f();
    return nullptr;
  } catch (const c10::Error& e) {
    return strdup(e.what_without_backtrace());
  } catch (const std::exception& e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("unknown C++ exception");
  }
}

// A tensor that may be absent, as an autograd function takes it, and back.
inline std::optional<at::Tensor> given(const at::Tensor& x) {
  return x.defined() ? std::optional<at::Tensor>(x) : std::nullopt;
}
inline at::Tensor or_none(const std::optional<at::Tensor>& x) { return x ? *x : at::Tensor(); }
inline at::Tensor or_none(const at::Tensor* x) { return x == nullptr ? at::Tensor() : *x; }

// A list of `n` tensors as Rust hands it over; a null list is empty.
inline std::vector<at::Tensor> list(at::Tensor* const* tensors, size_t n) {
  std::vector<at::Tensor> out;
  if (tensors == nullptr) {
    return out;
  }
  out.reserve(n);
  for (size_t i = 0; i < n; i++) {
    TORCH_CHECK(tensors[i]->defined(), "tensor ", i, " of the list is undefined");
    out.push_back(*tensors[i]);
  }
  return out;
}

}  // namespace luthier
