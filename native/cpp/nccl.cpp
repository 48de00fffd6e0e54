// NCCL's process group, a library of its own: `libluthier_nccl.so`.
//
// What it needs lies in libtorch_cuda, which the programs are not linked to, so that they start
// without CUDA. Set-up compiles it where there is an NVIDIA GPU and puts it beside libtorch_cuda;
// `Group::nccl` opens it there. It was compiled and opened, but has not yet run on a GPU.

#include "common.h"

#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <chrono>

extern "C" {

char* luthier_nccl_backend(const c10::intrusive_ptr<c10d::Store>* store, int32_t rank, int32_t size,
                           int64_t timeout_ms, c10::intrusive_ptr<c10d::Backend>* out) {
  return luthier::guarded([&] {
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = std::chrono::milliseconds(timeout_ms);
    *out = c10::make_intrusive<c10d::ProcessGroupNCCL>(*store, rank, size, options);
  });
}
}
