// What the files of torch.distributed share: the handle of a process group.
#pragma once

#include "common.h"

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <chrono>

namespace luthier {

// Held by Rust, by reducers, and by nodes of the autograd graph, each with a count of its own.
struct Group : torch::CustomClassHolder {
  c10::intrusive_ptr<c10d::ProcessGroup> pg;
  // Of a wait. `kNoTimeout` with NCCL, whose watchdog has its own: a wait with one would hold the
  // thread until the GPU is done.
  std::chrono::milliseconds timeout{kNoTimeout};
  at::Device device{at::kCPU};

  void wait(const c10::intrusive_ptr<c10d::Work>& work) const;
  // In place, summed over the ranks; `sum` must be contiguous.
  void sum(at::Tensor sum) const;
  // [n, …] of each rank → [size · n, …], in rank order.
  at::Tensor gather(const at::Tensor& own) const;
  // [size · n, …], summed over the ranks → the rank's [n, …].
  at::Tensor scatter_sum(const at::Tensor& all) const;
  void send(const at::Tensor& tensor, int64_t to, int64_t tag) const;
  void recv(at::Tensor tensor, int64_t from, int64_t tag) const;
};

using GroupPtr = c10::intrusive_ptr<Group>;

}  // namespace luthier
