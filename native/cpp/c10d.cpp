// torch.distributed from Rust: stores, a Gloo process group, and its collectives.
//
// Of Gloo's own types only pointers pass through here: the headers are those of Debian's package,
// older than the Gloo inside libtorch, so no layout of theirs may be relied on.

#include "c10d.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#endif

#include <dlfcn.h>

#include <utility>

namespace luthier {

using at::Tensor;
using Store = c10::intrusive_ptr<c10d::Store>;
using Milliseconds = std::chrono::milliseconds;

void Group::wait(const c10::intrusive_ptr<c10d::Work>& work) const {
  TORCH_CHECK(work->wait(timeout), "the operation was not finished in time");
}

void Group::sum(Tensor sum) const {
  std::vector<Tensor> tensors{std::move(sum)};
  wait(pg->allreduce(tensors));
}

Tensor Group::gather(const Tensor& own) const {
  Tensor input = own.dim() == 0 ? own.reshape({1}) : own.contiguous();
  auto shape = input.sizes().vec();
  shape[0] *= pg->getSize();
  Tensor output = at::empty(shape, input.options());
  if (output.numel() > 0) {
    wait(pg->_allgather_base(output, input));
  }
  return output;
}

Tensor Group::scatter_sum(const Tensor& all) const {
  const int64_t size = pg->getSize();
  TORCH_CHECK(all.dim() > 0 && all.size(0) % size == 0, "reduce_scatter: the tensor is ",
              all.sizes(), ", its first dimension must be a multiple of the ", size, " ranks");
  // Gloo sums in place of its input.
  Tensor input = all.clone(at::MemoryFormat::Contiguous);
  auto shape = input.sizes().vec();
  shape[0] /= size;
  Tensor output = at::empty(shape, input.options());
  if (output.numel() > 0) {
    wait(pg->_reduce_scatter_base(output, input));
  }
  return output;
}

void Group::send(const Tensor& tensor, int64_t to, int64_t tag) const {
  std::vector<Tensor> tensors{tensor.detach().contiguous()};
  wait(pg->send(tensors, static_cast<int>(to), static_cast<int>(tag)));
}

void Group::recv(Tensor tensor, int64_t from, int64_t tag) const {
  std::vector<Tensor> tensors{std::move(tensor)};
  wait(pg->recv(tensors, static_cast<int>(from), static_cast<int>(tag)));
}

namespace {

void check_in_place(const Tensor& tensor, const char* what) {
  TORCH_CHECK(tensor.defined() && tensor.layout() == at::kStrided && tensor.is_contiguous(), what,
              ": the tensor is changed in place, it must be dense and contiguous");
}

enum Op : int32_t { kSum = 0, kAvg = 1, kMax = 2 };

// An all-reduce or a sending under way.
struct Pending {
  GroupPtr group;
  c10::intrusive_ptr<c10d::Work> work;
  Tensor tensor;
  bool average;

  void finish() {
    if (work) {
      group->wait(work);
    }
    if (average) {
      tensor.div_(group->pg->getSize());
    }
  }
};

Pending start_all_reduce(const GroupPtr& group, Tensor tensor, int32_t op) {
  check_in_place(tensor, "all_reduce");
  TORCH_CHECK(op != kAvg || at::isFloatingType(tensor.scalar_type()), "all_reduce: a mean of ",
              tensor.scalar_type());
  c10d::AllreduceOptions options;
  options.reduceOp = op == kMax ? c10d::ReduceOp::MAX : c10d::ReduceOp::SUM;
  tensor = tensor.detach();
  std::vector<Tensor> tensors{tensor};
  // Gloo has no mean of its own: the sum is divided.
  return {group, tensor.numel() > 0 ? group->pg->allreduce(tensors, options) : nullptr, tensor,
          op == kAvg};
}

// Each rank's rows are filled up to the largest number of them, since c10d gathers equal shapes.
Tensor gather_rows(const Group& group, const Tensor& own, const int64_t* counts, int64_t most) {
  auto shape = own.sizes().vec();
  shape[0] = most;
  Tensor padded = at::zeros(shape, own.options());
  padded.narrow(0, 0, own.size(0)).copy_(own);
  const Tensor all = group.gather(padded);
  std::vector<Tensor> parts;
  for (int64_t rank = 0; rank < group.pg->getSize(); rank++) {
    parts.push_back(all.narrow(0, rank * most, counts[rank]));
  }
  return at::cat(parts);
}

Tensor all_reduce_rows(const Group& group, const Tensor& indices, const Tensor& values,
                       int64_t rows, int32_t op) {
  TORCH_CHECK(indices.dim() == 1 && indices.scalar_type() == at::kLong && values.dim() >= 1 &&
                  values.size(0) == indices.size(0),
              "all_reduce_rows: indices are ", indices.scalar_type(), " ", indices.sizes(),
              ", values are ", values.sizes(), "; they must be Int64 [n] and [n, …]");
  TORCH_CHECK(op != kMax, "all_reduce_rows: rows are summed or averaged");
  const Tensor counts =
      group.gather(at::full({1}, indices.size(0), indices.options())).to(at::kCPU);
  const auto* count = counts.const_data_ptr<int64_t>();
  const int64_t most = counts.max().item<int64_t>();
  const Tensor all_indices = gather_rows(group, indices.detach(), count, most);
  TORCH_CHECK(all_indices.numel() == 0 || (all_indices.min().item<int64_t>() >= 0 &&
                                           all_indices.max().item<int64_t>() < rows),
              "all_reduce_rows: an index of some rank lies outside of 0 to ", rows);
  Tensor all_values = gather_rows(group, values.detach(), count, most);
  if (op == kAvg) {
    all_values.div_(group.pg->getSize());
  }
  auto shape = values.sizes().vec();
  shape[0] = rows;
  return at::sparse_coo_tensor(all_indices.unsqueeze(0), all_values, shape,
                               values.options().layout(at::kSparse));
}

#ifdef USE_C10D_GLOO
GroupPtr gloo(const Store& store, int rank, int size, Milliseconds timeout, const char* host) {
  auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  // Named rather than looked up: the machine's own name may lead to an address no peer reaches.
  options->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(host));
  auto backend = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
  auto group = c10::make_intrusive<Group>();
  group->pg = c10::make_intrusive<c10d::ProcessGroup>(store, rank, size);
  group->pg->setBackend(at::kCPU, c10d::ProcessGroup::GLOO, std::move(backend));
  group->pg->setDefaultBackend(c10d::ProcessGroup::GLOO);
  group->timeout = timeout;
  return group;
}
#else
GroupPtr gloo(const Store&, int, int, Milliseconds, const char*) {
  TORCH_CHECK(false,
              "this program was built without Gloo, training runs in one process: `make setup` "
              "fetches Gloo's headers where apt has them, then build again");
}
#endif

using NcclBackend = char*(const Store*, int32_t, int32_t, int64_t,
                          c10::intrusive_ptr<c10d::Backend>*);

// `library` is that of nccl.cpp; it stays open, since the group's code lies in it.
GroupPtr nccl(const Store& store, int rank, int size, int64_t timeout_ms, int device,
              const char* library) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  TORCH_CHECK(handle != nullptr, "cannot open ", library, ": ", dlerror());
  auto* make = reinterpret_cast<NcclBackend*>(dlsym(handle, "luthier_nccl_backend"));
  TORCH_CHECK(make != nullptr, library, " has no luthier_nccl_backend");
  c10::intrusive_ptr<c10d::Backend> backend;
  if (char* error = make(&store, rank, size, timeout_ms, &backend)) {
    const std::string why = error;
    free(error);
    TORCH_CHECK(false, "NCCL: ", why);
  }
  auto group = c10::make_intrusive<Group>();
  group->pg = c10::make_intrusive<c10d::ProcessGroup>(store, rank, size);
  group->pg->setBackend(at::kCUDA, c10d::ProcessGroup::NCCL, std::move(backend));
  group->pg->setDefaultBackend(c10d::ProcessGroup::NCCL);
  group->device = at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(device));
  return group;
}

void barrier(const Group& group) {
  c10d::BarrierOptions options;
  if (group.device.is_cuda()) {
    options.device = group.device;
    options.device_ids = {group.device.index()};
  }
  group.wait(group.pg->barrier(options));
}

}  // namespace
}  // namespace luthier

using luthier::GroupPtr;
using luthier::guarded;
using luthier::Pending;
using luthier::Store;

extern "C" {

bool luthier_has_gloo() {
#ifdef USE_C10D_GLOO
  return true;
#else
  return false;
#endif
}

// `listener`: a socket that is bound to `port`, for the store to serve and to close; -1 for a client.
char* luthier_store_tcp(const char* host, uint16_t port, int32_t listener, int64_t timeout_ms,
                        Store** out) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = listener >= 0;
    if (options.isServer) {
      options.masterListenFd = listener;
    }
    options.waitWorkers = false;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    *out = new Store(c10::make_intrusive<c10d::TCPStore>(host, options));
  });
}

char* luthier_store_file(const char* path, int32_t size, int64_t timeout_ms, Store** out) {
  return guarded([&] {
    auto store = c10::make_intrusive<c10d::FileStore>(path, size);
    store->setTimeout(std::chrono::milliseconds(timeout_ms));
    *out = new Store(std::move(store));
  });
}

char* luthier_store_prefix(const Store* store, const char* prefix, Store** out) {
  return guarded([&] { *out = new Store(c10::make_intrusive<c10d::PrefixStore>(prefix, *store)); });
}

char* luthier_store_set(const Store* store, const char* key, const uint8_t* bytes, size_t n) {
  return guarded([&] { (*store)->set(key, std::vector<uint8_t>(bytes, bytes + n)); });
}

// The value as a Uint8 tensor, whose memory Rust knows how to free.
char* luthier_store_get(const Store* store, const char* key, at::Tensor** out) {
  return guarded([&] {
    const auto bytes = (*store)->get(key);
    at::Tensor value = at::empty({static_cast<int64_t>(bytes.size())}, at::kByte);
    std::copy(bytes.begin(), bytes.end(), value.mutable_data_ptr<uint8_t>());
    *out = new at::Tensor(std::move(value));
  });
}

char* luthier_store_add(const Store* store, const char* key, int64_t amount, int64_t* out) {
  return guarded([&] { *out = (*store)->add(key, amount); });
}

char* luthier_store_free(Store* store) {
  return guarded([&] { delete store; });
}

char* luthier_group_gloo(const Store* store, int32_t rank, int32_t size, int64_t timeout_ms,
                         const char* host, GroupPtr** out) {
  return guarded([&] {
    *out = new GroupPtr(
        luthier::gloo(*store, rank, size, std::chrono::milliseconds(timeout_ms), host));
  });
}

char* luthier_group_nccl(const Store* store, int32_t rank, int32_t size, int64_t timeout_ms,
                         int32_t device, const char* library, GroupPtr** out) {
  return guarded([&] {
    *out = new GroupPtr(luthier::nccl(*store, rank, size, timeout_ms, device, library));
  });
}

char* luthier_group_clone(const GroupPtr* group, GroupPtr** out) {
  return guarded([&] { *out = new GroupPtr(*group); });
}

char* luthier_group_free(GroupPtr* group) {
  return guarded([&] { delete group; });
}

char* luthier_all_reduce(const GroupPtr* group, at::Tensor* tensor, int32_t op) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    luthier::start_all_reduce(*group, *tensor, op).finish();
  });
}

char* luthier_all_reduce_start(const GroupPtr* group, at::Tensor* tensor, int32_t op,
                               Pending** out) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    *out = new Pending(luthier::start_all_reduce(*group, *tensor, op));
  });
}

char* luthier_work_wait(Pending* pending) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    pending->finish();
  });
}

char* luthier_work_free(Pending* pending) {
  return guarded([&] { delete pending; });
}

char* luthier_broadcast(const GroupPtr* group, at::Tensor* tensor, int64_t root) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    luthier::check_in_place(*tensor, "broadcast");
    c10d::BroadcastOptions options;
    options.rootRank = root;
    std::vector<at::Tensor> tensors{tensor->detach()};
    if (tensor->numel() > 0) {
      (*group)->wait((*group)->pg->broadcast(tensors, options));
    }
  });
}

char* luthier_all_gather(const GroupPtr* group, at::Tensor* own, at::Tensor** out) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    *out = new at::Tensor((*group)->gather(own->detach()));
  });
}

char* luthier_reduce_scatter(const GroupPtr* group, at::Tensor* all, at::Tensor** out) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    *out = new at::Tensor((*group)->scatter_sum(all->detach()));
  });
}

char* luthier_barrier(const GroupPtr* group) {
  return guarded([&] { luthier::barrier(**group); });
}

char* luthier_send(const GroupPtr* group, at::Tensor* tensor, int64_t to, int64_t tag) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    (*group)->send(*tensor, to, tag);
  });
}

char* luthier_send_start(const GroupPtr* group, at::Tensor* tensor, int64_t to, int64_t tag,
                         Pending** out) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    std::vector<at::Tensor> tensors{tensor->detach().contiguous()};
    auto work = (*group)->pg->send(tensors, static_cast<int>(to), static_cast<int>(tag));
    *out = new Pending{*group, std::move(work), tensors[0], false};
  });
}

char* luthier_recv(const GroupPtr* group, at::Tensor* tensor, int64_t from, int64_t tag) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    luthier::check_in_place(*tensor, "recv");
    (*group)->recv(tensor->detach(), from, tag);
  });
}

char* luthier_all_reduce_rows(const GroupPtr* group, at::Tensor* indices, at::Tensor* values,
                              int64_t rows, int32_t op, at::Tensor** out) {
  return guarded([&] {
    c10::NoGradGuard no_grad;
    *out = new at::Tensor(luthier::all_reduce_rows(**group, *indices, *values, rows, op));
  });
}
}
