// c10d's Reducer, the engine of torch's DistributedDataParallel, without the Python around it.

#include "c10d.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <algorithm>
#include <memory>
#include <string>

// `LuthierReducer` of c10d/ffi.rs.
struct LuthierReducer {
  int64_t first_bucket_bytes;
  int64_t bucket_bytes;
  bool find_unused;
  bool static_graph;
  bool bucket_view;
};

namespace luthier {
namespace {

using at::Tensor;
using torch::autograd::Engine;

struct Reducer {
  std::shared_ptr<c10d::Reducer> inner;
  bool static_graph = false;
  bool first = true;

  void prepare_for_forward() {
    inner->prepare_for_forward();
    inner->rebuild_buckets();
  }

  void prepare_for_backward(const Tensor& loss) {
    if (static_graph && first) {
      // In the first pass Reducer only counts how often each parameter is used; everything is
      // reduced when that pass is over, as DistributedDataParallel's own node arranges it.
      loss.register_hook([reducer = inner](const Tensor&) {
        Engine::get_default_engine().queue_callback([reducer] { reducer->delay_all_reduce(); });
      });
    }
    first = false;
    // Only with dynamic graphs are the outputs looked at, to find what does not lead to them.
    inner->prepare_for_backward({loss});
  }
};

// c10d compares each rank with rank 0, which itself learns nothing of it and would wait for the others.
void check_same(const Group& group, const std::vector<Tensor>& params) {
  std::string why;
  try {
    c10d::verify_params_across_processes(group.pg, params, std::nullopt);
  } catch (const c10::Error& error) {
    why = error.what_without_backtrace();
  }
  const Tensor differ = at::full({1}, why.empty() ? 0 : 1, params[0].options().dtype(at::kLong));
  group.sum(differ);
  TORCH_CHECK(differ.item<int64_t>() == 0,
              why.empty() ? "reducer: another rank has other parameters" : why);
}

std::unique_ptr<Reducer> make(const Group& group, const std::vector<Tensor>& params,
                              const bool* sparse, const LuthierReducer& options) {
  TORCH_CHECK(!params.empty(), "reducer: no parameters");
  for (size_t i = 0; i < params.size(); i++) {
    TORCH_CHECK(params[i].is_leaf() && params[i].requires_grad(), "reducer: parameter ", i,
                " is not a leaf that requires a gradient");
  }
  std::vector<bool> expect_sparse(params.size(), false);
  if (sparse != nullptr) {
    std::copy(sparse, sparse + params.size(), expect_sparse.begin());
  }
  check_same(group, params);
  auto buckets = std::get<0>(c10d::compute_bucket_assignment_by_size(
      params,
      {static_cast<size_t>(options.first_bucket_bytes), static_cast<size_t>(options.bucket_bytes)},
      expect_sparse));
  // Gradients come in about the reverse of the order of use.
  std::reverse(buckets.begin(), buckets.end());
  auto reducer = std::make_unique<Reducer>();
  reducer->inner = std::make_shared<c10d::Reducer>(
      params, std::move(buckets), group.pg, std::move(expect_sparse), options.bucket_bytes,
      options.find_unused, options.bucket_view, std::unordered_map<size_t, std::string>(),
      options.first_bucket_bytes, /*skip_all_reduce_unused_params=*/false,
      /*use_python_reducer=*/false, std::vector<int64_t>());
  if (options.static_graph) {
    reducer->inner->set_static_graph();
    reducer->static_graph = true;
  }
  return reducer;
}

}  // namespace
}  // namespace luthier

using luthier::guarded;
using luthier::Reducer;

extern "C" {

char* luthier_reducer_new(const luthier::GroupPtr* group, at::Tensor* const* params, size_t n,
                          const bool* sparse, const LuthierReducer* options, Reducer** out) {
  return guarded([&] {
    *out = luthier::make(**group, luthier::list(params, n), sparse, *options).release();
  });
}

char* luthier_reducer_free(Reducer* reducer) {
  return guarded([&] { delete reducer; });
}

char* luthier_reducer_prepare_for_forward(Reducer* reducer) {
  return guarded([&] { reducer->prepare_for_forward(); });
}

char* luthier_reducer_prepare_for_backward(Reducer* reducer, at::Tensor* loss) {
  return guarded([&] { reducer->prepare_for_backward(*loss); });
}

char* luthier_reducer_check_finalized(Reducer* reducer) {
  return guarded([&] { reducer->inner->check_finalized(); });
}

char* luthier_reducer_buckets(Reducer* reducer, int64_t* out) {
  return guarded(
      [&] { *out = static_cast<int64_t>(reducer->inner->get_grad_buckets().size()); });
}
}
