// Switches of libtorch that tch does not bind, its versions, and the opening of its CUDA part.

#include "common.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <torch/headeronly/version.h>

#include <dlfcn.h>

#include <string>

extern "C" {

void luthier_free_error(char* message) { free(message); }

char* luthier_set_threads(int64_t threads) {
  return luthier::guarded([&] {
    TORCH_CHECK(threads >= 1 && threads <= 4096, "threads is ", threads,
                ", it must lie in 1 to 4096");
    at::set_num_threads(static_cast<int>(threads));
  });
}

char* luthier_threads(int64_t* out) {
  return luthier::guarded([&] { *out = at::get_num_threads(); });
}

char* luthier_set_deterministic(bool on) {
  return luthier::guarded([&] {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(on, /*warn_only=*/false);
    context.setDeterministicCuDNN(on);
    if (on) {
      context.setBenchmarkCuDNN(false);
    }
  });
}

char* luthier_set_tf32(bool on) {
  return luthier::guarded([&] {
    at::globalContext().setFloat32MatmulPrecision(on ? "high" : "highest");
    at::globalContext().setAllowTF32CuDNN(on);
  });
}

char* luthier_set_flush_denormals(bool on, bool* supported) {
  return luthier::guarded([&] {
    *supported = at::globalContext().setFlushDenormal(on);
    // The flag is each thread's own, so the threads of the pool are told too.
    const int64_t threads = at::get_num_threads();
    at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
      at::globalContext().setFlushDenormal(on);
    });
  });
}

// `major.minor.patch` of the headers that this was compiled with.
const char* luthier_header_version() { return TORCH_VERSION; }

// What the loaded library says of its own build; the caller frees it like an error.
char* luthier_show_config(char** out) {
  return luthier::guarded([&] { *out = strdup(at::show_config().c_str()); });
}

// The file of libtorch_cpu in this process, or null; the caller frees it like an error.
char* luthier_cpu_library() {
  Dl_info info;
  const auto address = reinterpret_cast<void*>(
      static_cast<std::string (*)()>(&at::show_config));
  if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) {
    return nullptr;
  }
  return strdup(info.dli_fname);
}

bool luthier_has_driver() { return dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL) != nullptr; }

// The driver's answer for device 0, or false where there is no driver or no device.
bool luthier_compute_capability(int* major, int* minor) {
  constexpr int kMajor = 75, kMinor = 76;  // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) {
    return false;
  }
  const auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  const auto ask = reinterpret_cast<int (*)(int*, int, int)>(dlsym(driver, "cuDeviceGetAttribute"));
  return init != nullptr && ask != nullptr && init(0) == 0 && ask(major, kMajor, 0) == 0 &&
         ask(minor, kMinor, 0) == 0;
}

char* luthier_open_global(const char* path) {
  if (dlopen(path, RTLD_NOW | RTLD_GLOBAL) != nullptr) {
    return nullptr;
  }
  const char* reason = dlerror();
  return strdup(reason == nullptr ? "dlopen failed" : reason);
}
}
