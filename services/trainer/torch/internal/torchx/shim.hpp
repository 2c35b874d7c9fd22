// Shared by the C++ files of this package.
#pragma once
#include "shim.h"
#include <cstring>
#include <stdexcept>
#include <string>
#include <torch/torch.h>
#include <vector>

using Handle = torch::Tensor *;

// TRY runs its body and turns any exception into the error text that the C calls return.
#define TRY(...)                                                                                                       \
  try {                                                                                                                \
    __VA_ARGS__;                                                                                                       \
    return nullptr;                                                                                                    \
  } catch (const c10::Error &e) {                                                                                      \
    return strdup(e.what_without_backtrace());                                                                         \
  } catch (const std::exception &e) {                                                                                  \
    return strdup(e.what());                                                                                           \
  } catch (...) {                                                                                                      \
    return strdup("unknown C++ exception");                                                                            \
  }

inline const torch::Tensor &T(void *t) { return *static_cast<Handle>(t); }
inline torch::Tensor opt(void *t) { return t ? *static_cast<Handle>(t) : torch::Tensor(); }
inline void *give(torch::Tensor t) { return new torch::Tensor(std::move(t)); }
inline std::vector<torch::Tensor> many(void **t, int n) {
  std::vector<torch::Tensor> v;
  v.reserve(n);
  for (int i = 0; i < n; i++) v.push_back(T(t[i]));
  return v;
}
inline torch::Device device_of(int d) {
  return d < 0 ? torch::Device(torch::kCPU) : torch::Device(torch::kCUDA, static_cast<c10::DeviceIndex>(d));
}
