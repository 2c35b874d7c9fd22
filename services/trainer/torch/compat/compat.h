// Forced into gotch's C++ (by -include): gotch v0.9.1 was generated for libtorch 2.1, and three of the operators it binds
// have since gained or lost arguments. These overloads carry the old signatures, so that the generated file compiles
// unpatched with libtorch 2.8 to 2.11. Nothing here calls them; they throw if anything does.
#pragma once
#ifdef __cplusplus
#include <stdexcept>
#include <tuple>
#include <torch/torch.h>

namespace torch {

inline at::Tensor _cslt_sparse_mm(const at::Tensor &, const at::Tensor &, const at::Tensor &, bool) {
  throw std::runtime_error("_cslt_sparse_mm is not bound for this libtorch");
}

inline std::tuple<at::Tensor, at::Tensor> _scaled_mm(const at::Tensor &, const at::Tensor &, const at::Tensor &,
                                                     c10::optional<at::ScalarType>, const at::Tensor &,
                                                     const at::Tensor &, const at::Tensor &) {
  throw std::runtime_error("_scaled_mm is not bound for this libtorch");
}

inline std::tuple<at::Tensor, at::Tensor> _scaled_mm_out(at::Tensor &, at::Tensor &, const at::Tensor &,
                                                         const at::Tensor &, const at::Tensor &,
                                                         c10::optional<at::ScalarType>, const at::Tensor &,
                                                         const at::Tensor &, const at::Tensor &) {
  throw std::runtime_error("_scaled_mm_out is not bound for this libtorch");
}

} // namespace torch
#endif
