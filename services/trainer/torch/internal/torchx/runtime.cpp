// Memory, random numbers, autograd and the optimizer.
#include "shim.hpp"
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <dlfcn.h>

using torch::Tensor;

char *cx_from_host(const void *data, const int64_t *dims, int nd, int dtype, int device, void **out) {
  TRY(torch::NoGradGuard ng; auto o = torch::TensorOptions().dtype(static_cast<torch::ScalarType>(dtype));
      Tensor t = torch::empty(torch::IntArrayRef(dims, nd), o);
      if (t.nbytes()) memcpy(t.data_ptr(), data, t.nbytes());
      *out = give(device < 0 ? t : t.to(device_of(device))))
}
char *cx_view_host(void *data, const int64_t *dims, int nd, int dtype, void **out) {
  TRY(*out = give(torch::from_blob(data, torch::IntArrayRef(dims, nd), torch::TensorOptions().dtype(static_cast<torch::ScalarType>(dtype)))))
}
char *cx_to_host(void *t, void *buf, size_t bytes) {
  TRY(Tensor c = T(t).detach().to(torch::kCPU).contiguous();
      if (c.nbytes() != bytes) throw std::invalid_argument("to host: tensor has " + std::to_string(c.nbytes()) + " bytes, buffer " + std::to_string(bytes));
      if (bytes) memcpy(buf, c.data_ptr(), bytes))
}
char *cx_info(void *t, int64_t *dims, int *nd, int *dtype, int *device, int *requires_grad) {
  TRY(const Tensor &x = T(t); if (x.dim() > 8) throw std::invalid_argument("more than 8 dimensions");
      *nd = int(x.dim()); for (int i = 0; i < *nd; i++) dims[i] = x.size(i);
      *dtype = int(x.scalar_type()); *device = x.is_cuda() ? x.get_device() : -1; *requires_grad = x.requires_grad())
}
void cx_free(void *t) { delete static_cast<Handle>(t); }
void cx_free_all(void **t, int n) {
  for (int i = n - 1; i >= 0; i--) delete static_cast<Handle>(t[i]);
}
char *cx_alias(void *t, void **out) { TRY(*out = give(T(t))) }
char *cx_clone(void *t, void **out) { TRY(*out = give(T(t).clone())) }
char *cx_empty(const int64_t *dims, int nd, int dtype, int device, void **out) {
  TRY(*out = give(torch::empty(torch::IntArrayRef(dims, nd), torch::TensorOptions().dtype(static_cast<torch::ScalarType>(dtype)).device(device_of(device)))))
}
char *cx_bytes(void *t, void **out) {
  TRY(torch::NoGradGuard ng; *out = give(T(t).detach().contiguous().view({-1}).view(torch::kByte)))
}
char *cx_from_row(void *row, int64_t at, const int64_t *dims, int nd, int dtype, void **out) {
  TRY(torch::NoGradGuard ng; auto type = static_cast<torch::ScalarType>(dtype); torch::IntArrayRef shape(dims, nd);
      int64_t bytes = int64_t(c10::elementSize(type)) * c10::multiply_integers(shape);
      *out = give(T(row).narrow(0, at, bytes).view(type).view(shape)))
}
char *cx_copy_(void *dst, void *src) { TRY(torch::NoGradGuard ng; T(dst).copy_(T(src))) }
char *cx_add_(void *dst, void *src, double alpha) { TRY(torch::NoGradGuard ng; T(dst).add_(T(src), alpha)) }
char *cx_mul_(void *dst, double f) { TRY(torch::NoGradGuard ng; T(dst).mul_(f)) }
char *cx_index_copy_(void *dst, void *rows, void *src) {
  TRY(torch::NoGradGuard ng; T(dst).index_copy_(0, T(rows), T(src).to(T(dst).scalar_type())))
}

char *cx_version(char *buf, int n) { TRY(snprintf(buf, n, "%s", TORCH_VERSION)) }
void cx_set_threads(int n) { at::set_num_threads(n); }
int cx_get_threads(void) { return at::get_num_threads(); }
int cx_set_grad_mode(int on) {
  int old = at::GradMode::is_enabled();
  at::GradMode::set_enabled(on);
  return old;
}
char *cx_seed(uint64_t seed) { TRY(at::manual_seed(seed)) }
char *cx_rng_state(void **out) { TRY(*out = give(at::detail::getDefaultCPUGenerator().get_state())) }
char *cx_set_rng_state(void *s) { TRY(auto g = at::detail::getDefaultCPUGenerator(); g.set_state(T(s))) }
char *cx_randperm(int64_t seed, int64_t n, int64_t *out) {
  TRY(auto g = at::make_generator<at::CPUGeneratorImpl>(uint64_t(seed));
      Tensor p = at::randperm(n, g, torch::TensorOptions().dtype(torch::kLong));
      memcpy(out, p.data_ptr<int64_t>(), n * sizeof(int64_t)))
}
// Nothing in the program names a symbol of libtorch_cuda, so that one program serves both: it is loaded on request.
char *cx_load_cuda(void) {
  static void *lib = nullptr;
  if (!lib) lib = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL);
  return lib ? nullptr : strdup(dlerror());
}
int cx_cuda_devices(void) {
  try {
    return at::globalContext().hasCUDA() ? int(at::detail::getCUDAHooks().deviceCount()) : 0;
  } catch (...) {
    return 0;
  }
}
char *cx_cuda_memory(int device, int64_t *now, int64_t *peak) {
  TRY(auto s = at::getDeviceAllocator(torch::kCUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
      auto &b = s.allocated_bytes[0]; *now = b.current; *peak = b.peak)
}
// The runtime's own calls, found in the library that libtorch_cuda brought: nothing of CUDA is linked.
char *cx_cuda_free(int device, int64_t *bytes) {
  TRY(auto set = reinterpret_cast<int (*)(int)>(dlsym(RTLD_DEFAULT, "cudaSetDevice"));
      auto info = reinterpret_cast<int (*)(size_t *, size_t *)>(dlsym(RTLD_DEFAULT, "cudaMemGetInfo"));
      size_t left = 0; size_t total = 0;
      if (!set || !info || set(device) || info(&left, &total)) throw std::runtime_error("cudaMemGetInfo does not answer");
      *bytes = int64_t(left))
}
char *cx_sync(int device) {
  TRY(if (device >= 0) c10::impl::VirtualGuardImpl(torch::kCUDA).synchronizeDevice(static_cast<c10::DeviceIndex>(device)))
}
char *cx_sdp(int f, int e, int m) {
  TRY(auto &c = at::globalContext(); c.setSDPUseFlash(f); c.setSDPUseMemEfficient(e); c.setSDPUseMath(m))
}
void cx_deterministic(int on) { at::globalContext().setDeterministicAlgorithms(on, true); }

char *cx_backward(void **outs, void **grads, int n, int keep) {
  TRY(torch::AutoGradMode on(true); std::vector<Tensor> g;
      for (int i = 0; i < n; i++) g.push_back(grads && grads[i] ? T(grads[i]) : Tensor());
      torch::autograd::backward(many(outs, n), g, bool(keep)))
}
char *cx_grad(void *t, void **out) {
  TRY(const Tensor &g = T(t).grad(); *out = g.defined() ? give(g) : nullptr)
}
char *cx_set_grad(void *t, void *g) { TRY(static_cast<Handle>(t)->mutable_grad() = opt(g)) }
char *cx_zero_grads(void **p, int n) {
  TRY(for (int i = 0; i < n; i++) static_cast<Handle>(p[i])->mutable_grad() = Tensor())
}
char *cx_require_grad(void *t) { TRY(static_cast<Handle>(t)->set_requires_grad(true)) }
char *cx_leaf(void *t, int rg, void **out) { TRY(*out = give(T(t).detach().set_requires_grad(rg))) }

static std::vector<Tensor> grads_of(void **p, int n) {
  std::vector<Tensor> g;
  for (int i = 0; i < n; i++)
    if (T(p[i]).grad().defined()) g.push_back(T(p[i]).grad());
  return g;
}
char *cx_clip_grad_norm(void **p, int n, double max, double *norm) {
  TRY(torch::NoGradGuard ng; auto g = grads_of(p, n); *norm = 0; if (g.empty()) return nullptr;
      *norm = at::linalg_vector_norm(torch::stack(at::_foreach_norm(g))).item<double>();
      double f = max / (*norm + 1e-6);
      if (max > 0 && f < 1) at::_foreach_mul_(g, f))
}
char *cx_adamw(void **p, void **m, void **v, int n, int64_t step, double lr, double b1, double b2, double eps, double wd) {
  TRY(torch::NoGradGuard ng; std::vector<Tensor> ps; std::vector<Tensor> gs; std::vector<Tensor> ms; std::vector<Tensor> vs;
      for (int i = 0; i < n; i++) if (T(p[i]).grad().defined()) {
        ps.push_back(T(p[i])); gs.push_back(T(p[i]).grad()); ms.push_back(T(m[i])); vs.push_back(T(v[i])); }
      if (ps.empty()) return nullptr;
      std::vector<Tensor> steps(ps.size(), torch::full({}, double(step), ps[0].options().dtype(torch::kFloat)));
      at::_fused_adamw_(ps, gs, ms, vs, {}, steps, lr, b1, b2, wd, eps, false, false))
}
