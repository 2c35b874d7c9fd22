// Collective calls between processes: libtorch's c10d, with Gloo on the CPU and NCCL where it was built for CUDA (tag nccl).
#include "shim.hpp"
#define USE_C10D_GLOO
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef CLARA_NCCL
#define USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

using torch::Tensor;
using Store = c10::intrusive_ptr<c10d::Store>;
using Group = c10::intrusive_ptr<c10d::Backend>;

char *cx_store(const char *host, int port, int world, int server, int timeout_ms, void **out) {
  TRY(c10d::TCPStoreOptions o; o.port = uint16_t(port); o.isServer = server; o.numWorkers = world; o.waitWorkers = false;
      o.timeout = std::chrono::milliseconds(timeout_ms);
      *out = new Store(c10::make_intrusive<c10d::TCPStore>(std::string(host), o)))
}

char *cx_group(const char *backend, const char *iface, void *store, int rank, int world, int timeout_ms, void **out) {
  TRY(Store s = c10::make_intrusive<c10d::PrefixStore>(std::string("clara"), *static_cast<Store *>(store));
      auto timeout = std::chrono::milliseconds(timeout_ms); std::string name = backend;
      if (name == "gloo") {
        auto o = c10d::ProcessGroupGloo::Options::create(timeout);
        std::string at = iface;
        if (at.empty()) o->devices.push_back(c10d::ProcessGroupGloo::createDefaultDevice());
        else if (at.find('.') != std::string::npos || at.find(':') != std::string::npos || at == "localhost")
          o->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(at));
        else o->devices.push_back(c10d::ProcessGroupGloo::createDeviceForInterface(at));
        o->threads = 2;
        *out = new Group(c10::make_intrusive<c10d::ProcessGroupGloo>(s, rank, world, o));
        return nullptr;
      }
#ifdef CLARA_NCCL
      if (name == "nccl") {
        auto o = c10d::ProcessGroupNCCL::Options::create();
        o->timeout = timeout;
        *out = new Group(c10::make_intrusive<c10d::ProcessGroupNCCL>(s, rank, world, o));
        return nullptr;
      }
#endif
      throw std::invalid_argument("this build has no backend \"" + name + "\""))
}

// Sums each tensor over the ranks, all of them in one message.
char *cx_all_reduce(void *group, void **ts, int n) {
  TRY(torch::NoGradGuard ng; if (n == 0) return nullptr; std::vector<Tensor> flat;
      for (auto &t : many(ts, n)) flat.push_back(t.reshape({-1}));
      std::vector<Tensor> buf{torch::cat(flat)};
      (*static_cast<Group *>(group))->allreduce(buf)->wait();
      int64_t at = 0;
      for (auto &t : many(ts, n)) { t.copy_(buf[0].narrow(0, at, t.numel()).view_as(t)); at += t.numel(); })
}
char *cx_all_reduce_f64(void *group, int device, double *values, int n) {
  TRY(auto o = torch::TensorOptions().dtype(torch::kDouble);
      std::vector<Tensor> buf{torch::from_blob(values, {n}, o).clone().to(device_of(device))};
      (*static_cast<Group *>(group))->allreduce(buf)->wait();
      Tensor host = buf[0].to(torch::kCPU); memcpy(values, host.data_ptr<double>(), n * sizeof(double)))
}
char *cx_broadcast(void *group, void **ts, int n, int root) {
  TRY(torch::NoGradGuard ng; for (auto &t : many(ts, n)) {
    c10d::BroadcastOptions o; o.rootRank = root;
    std::vector<Tensor> one{t.detach().contiguous()};
    (*static_cast<Group *>(group))->broadcast(one, o)->wait();
    if (one[0].data_ptr() != t.data_ptr()) t.copy_(one[0]);
  })
}
// in [n] of every rank -> out [ranks * n], in the order of the ranks.
char *cx_all_gather(void *group, void *in, void *out) {
  TRY(torch::NoGradGuard ng; Tensor from = T(in).detach(); Tensor to = T(out).detach();
      (*static_cast<Group *>(group))->_allgather_base(to, from)->wait())
}
char *cx_barrier(void *group) { TRY((*static_cast<Group *>(group))->barrier(c10d::BarrierOptions())->wait()) }
void cx_free_group(void *g) { delete static_cast<Group *>(g); }
void cx_free_store(void *s) { delete static_cast<Store *>(s); }
