// The operators of a transformer block as autograd functions that keep only what their backward needs. Base weights are
// frozen, so no gradient of theirs is ever formed, and what plain operators would save for it is not saved.
#include "rows.hpp"

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

using Maybe = std::optional<Tensor>; // what a null handle becomes

Maybe maybe(void *t) { return t ? Maybe(T(t)) : std::nullopt; }
Tensor or_undefined(const Maybe &t) { return t ? *t : Tensor(); }

constexpr int64_t kGroup = 32; // columns that share one quantisation scale

// dequantize gives back [out, in] in dtype from rows of 8 or 4 bit integers (two a byte, low half first) and one scale a group.
Tensor dequantize(const Tensor &q, const Tensor &scale, int64_t bits, torch::ScalarType dtype) {
  Tensor v = q;
  if (bits == 4) {
    Tensor low = q.bitwise_and(15), high = q.bitwise_right_shift(4);
    v = torch::stack({low, high}, -1).reshape({q.size(0), -1}).to(torch::kInt8).sub_(8);
  }
  auto g = v.to(dtype).view({v.size(0), -1, kGroup});
  return g.mul_(scale.to(dtype).unsqueeze(-1)).view({v.size(0), -1});
}

// dropped says whether element i of a tensor is dropped. That follows from the seed (a, b) and the place alone: the finaliser of
// MurmurHash3 over a counter. It must be inlined for the loops over it to be vectorised.
__attribute__((always_inline)) inline bool dropped(int64_t i, uint32_t a, uint32_t b, uint32_t below) {
  uint32_t h = ((uint32_t(i) + a) * 0x9e3779b1u) ^ b;
  h ^= h >> 16;
  h *= 0x85ebca6bu;
  h ^= h >> 13;
  h *= 0xc2b2ae35u;
  h ^= h >> 16;
  return h < below;
}
FOR_EVERY_CPU void drop32(const uint32_t *in, uint32_t *out, int64_t from, int64_t to, uint32_t a, uint32_t b, uint32_t below) {
  for (int64_t i = from; i < to; i++) out[i] = dropped(i, a, b, below) ? 0 : in[i];
}
FOR_EVERY_CPU void drop16(const uint16_t *in, uint16_t *out, int64_t from, int64_t to, uint32_t a, uint32_t b, uint32_t below) {
  for (int64_t i = from; i < to; i++) out[i] = dropped(i, a, b, below) ? 0 : in[i];
}
FOR_EVERY_CPU void add_kept(const float *in, float *out, int64_t from, int64_t to, uint32_t a, uint32_t b, uint32_t below) {
  for (int64_t i = from; i < to; i++) out[i] += dropped(i, a, b, below) ? 0.f : in[i];
}

// below is the bound under which a hash is dropped with probability p.
inline uint32_t below(double p) { return uint32_t(p * 4294967296.0); }

// drop_rows copies floats [from, to) of in, those it drops as 0.
void drop_rows(const float *in, float *out, int64_t from, int64_t to, double p, uint64_t seed) {
  drop32(reinterpret_cast<const uint32_t *>(in), reinterpret_cast<uint32_t *>(out), from, to, uint32_t(seed), uint32_t(seed >> 32), below(p));
}

// drop sets elements of x to 0 with probability p, without scaling up the rest. The same seed drops the same elements, so
// that a backward pass needs no mask kept.
Tensor drop(const Tensor &x, double p, uint64_t seed) {
  if (x.is_cuda()) {
    at::manual_seed(seed);
    return x * torch::empty_like(x).bernoulli_(1 - p);
  }
  Tensor in = x.contiguous(), out = torch::empty_like(in);
  uint32_t a = uint32_t(seed), b = uint32_t(seed >> 32);
  at::parallel_for(0, in.numel(), 1 << 15, [&](int64_t from, int64_t to) {
    if (in.element_size() == 4)
      drop32(static_cast<const uint32_t *>(in.data_ptr()), static_cast<uint32_t *>(out.data_ptr()), from, to, a, b, below(p));
    else
      drop16(static_cast<const uint16_t *>(in.data_ptr()), static_cast<uint16_t *>(out.data_ptr()), from, to, a, b, below(p));
  });
  return out;
}

// Linear is y = x W' + bias + s (drop(x) A') B'. x [T, in], W [out, in] frozen (float, or integers with scales), A [r, in], B [out, r].
struct Linear : Function<Linear> {
  // by_rows is the forward pass in float32 on the CPU: all that a thread's rows need, one after another.
  static std::tuple<Tensor, Tensor> by_rows(const Tensor &x, const Tensor &w, const Maybe &bias, const Tensor &a, const Tensor &b, double s, double p,
                                            uint64_t seed) {
    int64_t n = x.size(0), in = x.size(1), out = w.size(0), r = a.defined() ? a.size(0) : 0;
    Tensor y = torch::empty({n, out}, x.options()), u = r ? torch::empty({n, r}, x.options()) : Tensor(), dropped = r && p > 0 ? torch::empty_like(x) : Tensor();
    const float *xs = x.const_data_ptr<float>(), *ws = w.const_data_ptr<float>(), *bs = bias ? bias->const_data_ptr<float>() : nullptr;
    const float *as = r ? a.const_data_ptr<float>() : nullptr, *bb = r ? b.const_data_ptr<float>() : nullptr;
    float *ys = y.mutable_data_ptr<float>(), *us = r ? u.mutable_data_ptr<float>() : nullptr, *ds = dropped.defined() ? dropped.mutable_data_ptr<float>() : nullptr;
    rows::split(n, 16, [&](int64_t, int64_t from, int64_t to) {
      int64_t k = to - from;
      if (bs)
        for (int64_t i = from; i < to; i++) memcpy(ys + i * out, bs, out * sizeof(float));
      rows::times_transposed(xs + from * in, ws, ys + from * out, k, in, out, 1, bs ? 1 : 0);
      if (!r) return;
      if (ds) drop_rows(xs, ds, from * in, to * in, p, seed);
      rows::times_transposed((ds ? ds : xs) + from * in, as, us + from * r, k, in, r, 1, 0);
      rows::times_transposed(us + from * r, bb, ys + from * out, k, r, out, float(s / (1 - p)), 1);
    });
    return {y, u};
  }
  // by_rows_back is its backward pass: the gradients of x, A and B, those that are wanted.
  static variable_list by_rows_back(const Tensor &dy, const Tensor &x, const Tensor &w, const Tensor &a, const Tensor &b, const Tensor &u, double s, double p,
                                    uint64_t seed, bool want_x, bool want_a) {
    int64_t n = dy.size(0), out = dy.size(1), in = w.size(1), r = a.defined() ? a.size(0) : 0;
    want_a = want_a && r;
    auto o = dy.options();
    Tensor dx = want_x ? torch::empty({n, in}, o) : Tensor(), work = r && p > 0 ? torch::empty({n, in}, o) : Tensor(), du = r ? torch::empty({n, r}, o) : Tensor();
    int64_t threads = at::get_num_threads();
    Tensor da = want_a ? torch::zeros({threads, r, in}, o) : Tensor(), db = want_a ? torch::zeros({threads, out, r}, o) : Tensor();
    auto at = [](const Tensor &t) { return t.defined() ? const_cast<float *>(t.const_data_ptr<float>()) : nullptr; };
    float *dys = at(dy), *xs = want_a ? at(x) : nullptr, *ws = at(w), *as = at(a), *bs = at(b), *us = at(u), *dxs = at(dx), *works = at(work), *dus = at(du), *das = at(da),
          *dbs = at(db);
    rows::split(n, 16, [&](int64_t part, int64_t from, int64_t to) {
      int64_t k = to - from;
      if (want_x) rows::times(dys + from * out, ws, dxs + from * in, k, out, in, 1, 0);
      if (!r) return;
      rows::times(dys + from * out, bs, dus + from * r, k, out, r, float(s), 0);
      if (want_a) {
        rows::transposed_times(dys + from * out, us + from * r, dbs + part * out * r, k, out, r, float(s));
        if (works) drop_rows(xs, works, from * in, to * in, p, seed);
        rows::transposed_times(dus + from * r, (works ? works : xs) + from * in, das + part * r * in, k, r, in, 1);
      }
      if (!want_x) return;
      if (!works) {
        rows::times(dus + from * r, as, dxs + from * in, k, r, in, 1, 1);
        return;
      }
      rows::times(dus + from * r, as, works + from * in, k, r, in, 1, 0);
      add_kept(works, dxs, from * in, to * in, uint32_t(seed), uint32_t(seed >> 32), below(p));
    });
    return {dx, want_a ? (threads > 1 ? da.sum(0) : da[0]) : Tensor(), want_a ? (threads > 1 ? db.sum(0) : db[0]) : Tensor()};
  }
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &w, const Maybe &wscale_, int64_t bits, const Maybe &bias,
                        const Maybe &a_, const Maybe &b_, double s, double p, int64_t seed) {
    Tensor wscale = or_undefined(wscale_), a = or_undefined(a_), b = or_undefined(b_);
    Tensor weight = bits ? dequantize(w, wscale, bits, x.scalar_type()) : w;
    Tensor y, u;
    if (rows::fits(x)) {
      std::tie(y, u) = by_rows(x.contiguous(), weight, bias, a, b, s, p, uint64_t(seed));
    } else if (y = at::linear(x, weight, bias); a.defined()) {
      u = at::linear(p > 0 ? drop(x, p, uint64_t(seed)) : x, a.to(x.scalar_type()));
      y.addmm_(u, b.to(x.scalar_type()).t(), 1, s / (1 - p));
    }
    ctx->saved_data["dx"] = x.requires_grad();
    ctx->saved_data["da"] = a.defined() && a.requires_grad();
    ctx->saved_data["bits"] = bits;
    ctx->saved_data["s"] = s / (1 - p);
    ctx->saved_data["p"] = p;
    ctx->saved_data["seed"] = seed;
    // x is kept only where an adapter is trained.
    bool keep = a.defined() && a.requires_grad();
    ctx->save_for_backward({keep ? x.contiguous() : Tensor(), w, wscale, a, b, keep ? u : Tensor()});
    return y;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto v = ctx->get_saved_variables();
    const Tensor &x = v[0], &w = v[1], &wscale = v[2], &a = v[3], &b = v[4], &u = v[5];
    bool want_x = ctx->saved_data["dx"].toBool(), want_a = ctx->saved_data["da"].toBool();
    int64_t bits = ctx->saved_data["bits"].toInt();
    double s = ctx->saved_data["s"].toDouble(), p = ctx->saved_data["p"].toDouble();
    uint64_t seed = uint64_t(ctx->saved_data["seed"].toInt());
    Tensor dy = grads[0].contiguous(), dx, da, db;
    auto dtype = dy.scalar_type();
    if (rows::fits(dy)) {
      auto g = by_rows_back(dy, x, bits ? dequantize(w, wscale, bits, dtype) : w, a, b, u, s, p, seed, want_x, want_a);
      return {g[0], Tensor(), Tensor(), Tensor(), Tensor(), g[1], g[2], Tensor(), Tensor(), Tensor()};
    }
    if (want_x) dx = at::mm(dy, bits ? dequantize(w, wscale, bits, dtype) : w);
    if (a.defined() && (want_x || want_a)) {
      Tensor du = at::mm(dy, b.to(dtype)).mul_(s);
      if (want_a) {
        db = at::mm(dy.t(), u).to(b.scalar_type()).mul_(s);
        da = at::mm(du.t(), p > 0 ? drop(x, p, seed) : x).to(a.scalar_type());
      }
      if (want_x) {
        if (p > 0) dx.add_(drop(at::mm(du, a.to(dtype)), p, seed));
        else dx.addmm_(du, a.to(dtype));
      }
    }
    return {dx, Tensor(), Tensor(), Tensor(), Tensor(), da, db, Tensor(), Tensor(), Tensor()};
  }
};

// RMSNorm computes in float32 whatever the dtype of x [T, H]; w [H] is frozen.
struct RMSNorm : Function<RMSNorm> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &w, double eps) {
    if (rows::fits(x)) {
      Tensor in = x.contiguous(), y = torch::empty_like(in);
      int64_t h = x.size(-1), n = x.numel() / h;
      Tensor f = torch::empty({n}, in.options());
      rows::split(n, 32, [&](int64_t, int64_t from, int64_t to) {
        rows::rms_norm(in.const_data_ptr<float>() + from * h, w.const_data_ptr<float>(), y.mutable_data_ptr<float>() + from * h, f.mutable_data_ptr<float>() + from, to - from, h, float(eps));
      });
      ctx->save_for_backward({in, w, f});
      return y;
    }
    Tensor xf = x.to(torch::kFloat);
    Tensor r = at::linalg_vector_norm(xf, 2, {-1}, true).square_().div_(x.size(-1)).add_(eps).rsqrt_();
    ctx->save_for_backward({x, w, r});
    return (xf * r).to(x.scalar_type()).mul_(w);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto v = ctx->get_saved_variables();
    if (rows::fits(v[0])) {
      Tensor dy = grads[0].contiguous(), dx = torch::empty_like(v[0]);
      int64_t h = dx.size(-1);
      rows::split(dx.numel() / h, 32, [&](int64_t, int64_t from, int64_t to) {
        rows::rms_norm_back(v[0].const_data_ptr<float>() + from * h, v[1].const_data_ptr<float>(), v[2].const_data_ptr<float>() + from, dy.const_data_ptr<float>() + from * h,
                            dx.mutable_data_ptr<float>() + from * h, to - from, h);
      });
      return {dx, Tensor(), Tensor()};
    }
    Tensor g = (grads[0] * v[1]).to(torch::kFloat), n = v[0].to(torch::kFloat) * v[2];
    Tensor dot = (g * n).mean(-1, true);
    return {g.sub_(n.mul_(dot)).mul_(v[2]).to(v[0].scalar_type()), Tensor(), Tensor()};
  }
};

Tensor rotate(const Tensor &x, const Tensor &cos, const Tensor &sin, bool back) {
  // cos, sin [T, 1, R/2]: rotates the first R of D columns of x [T, heads, D] by halves, the rest passes through.
  int64_t half = cos.size(-1), d = x.size(-1);
  if (rows::fits(x)) {
    Tensor in = x.contiguous(), y = torch::empty_like(in);
    int64_t heads = x.size(1);
    rows::split(x.size(0), 16, [&](int64_t, int64_t from, int64_t to) {
      for (int64_t i = from; i < to; i++)
        rows::rotate(in.const_data_ptr<float>() + i * heads * d, cos.const_data_ptr<float>() + i * half, sin.const_data_ptr<float>() + i * half,
                     y.mutable_data_ptr<float>() + i * heads * d, heads, d, half, back ? -1 : 1);
    });
    return y;
  }
  Tensor y = torch::empty_like(x, torch::MemoryFormat::Contiguous);
  Tensor x1 = x.narrow(-1, 0, half), x2 = x.narrow(-1, half, half);
  Tensor y1 = y.narrow(-1, 0, half), y2 = y.narrow(-1, half, half);
  at::mul_out(y1, x1, cos);
  at::mul_out(y2, x2, cos);
  y1.addcmul_(x2, sin, back ? 1 : -1);
  y2.addcmul_(x1, sin, back ? -1 : 1);
  if (2 * half < d) y.narrow(-1, 2 * half, d - 2 * half).copy_(x.narrow(-1, 2 * half, d - 2 * half));
  return y;
}

struct Rope : Function<Rope> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &cos, const Tensor &sin) {
    ctx->save_for_backward({cos, sin});
    return rotate(x, cos, sin, false);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto v = ctx->get_saved_variables();
    return {rotate(grads[0], v[0], v[1], true), Tensor(), Tensor()};
  }
};

struct SwiGLU : Function<SwiGLU> {
  static Tensor forward(AutogradContext *ctx, const Tensor &gate, const Tensor &up) {
    if (rows::fits(gate)) {
      Tensor g = gate.contiguous(), u = up.contiguous(), y = torch::empty_like(g);
      rows::split(g.numel(), 1 << 14, [&](int64_t, int64_t from, int64_t to) {
        rows::swiglu(g.const_data_ptr<float>() + from, u.const_data_ptr<float>() + from, y.mutable_data_ptr<float>() + from, to - from);
      });
      ctx->save_for_backward({g, u});
      return y;
    }
    ctx->save_for_backward({gate, up});
    return at::silu(gate).mul_(up);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto v = ctx->get_saved_variables();
    Tensor dy = grads[0];
    if (rows::fits(v[0])) {
      dy = dy.contiguous();
      Tensor dg = torch::empty_like(v[0]), du = torch::empty_like(v[0]);
      rows::split(dg.numel(), 1 << 14, [&](int64_t, int64_t from, int64_t to) {
        rows::swiglu_back(v[0].const_data_ptr<float>() + from, v[1].const_data_ptr<float>() + from, dy.const_data_ptr<float>() + from, dg.mutable_data_ptr<float>() + from,
                          du.mutable_data_ptr<float>() + from, to - from);
      });
      return {dg, du};
    }
    return {at::silu_backward(dy * v[1], v[0]), at::silu(v[0]).mul_(dy)};
  }
};

// LinearCE is the sum over n of the cross-entropy of h W' against labels, a chunk of rows at a time: the logits of all rows never
// exist together, and the gradient to h is formed on the way. h [n, H], W [V, H] frozen. rows [m, H], where given, are the trainable
// rows row_ids of a tied W (which holds the same values): their gradient through the head is formed too.
struct LinearCE : Function<LinearCE> {
  // by_columns is h W' in float32 on the CPU: every thread has a part of the vocabulary, as a row has too many columns for one.
  static Tensor by_columns(const Tensor &h, const Tensor &w) {
    int64_t n = h.size(0), in = w.size(1), vocab = w.size(0);
    Tensor y = torch::empty({n, vocab}, h.options());
    const float *hs = h.const_data_ptr<float>(), *ws = w.const_data_ptr<float>();
    float *ys = y.mutable_data_ptr<float>();
    rows::split(vocab, 256, [&](int64_t, int64_t from, int64_t to) { rows::times_transposed(hs, ws + from * in, ys + from, n, in, to - from, 1, 0, vocab); });
    return y;
  }
  // by_columns_back writes g W into dh.
  static void by_columns_back(const Tensor &g, const Tensor &w, const Tensor &dh) {
    int64_t n = g.size(0), in = w.size(1), vocab = w.size(0);
    const float *gs = g.const_data_ptr<float>(), *ws = w.const_data_ptr<float>();
    float *ds = dh.mutable_data_ptr<float>();
    rows::split(in, 64, [&](int64_t, int64_t from, int64_t to) { rows::times(gs, ws + from, ds + from, n, vocab, to - from, 1, 0, in, in); });
  }
  static variable_list forward(AutogradContext *ctx, const Tensor &h, const Tensor &w, const Tensor &labels, const Maybe &rows_,
                               const Maybe &row_ids_, int64_t chunk, bool grad) {
    int64_t n = h.size(0);
    Tensor rows = or_undefined(rows_), row_ids = or_undefined(row_ids_);
    bool want_h = grad && h.requires_grad(), want_rows = grad && rows.defined() && rows.requires_grad();
    Tensor each = torch::empty({n}, h.options().dtype(torch::kFloat));
    Tensor dh = want_h ? torch::empty_like(h) : Tensor();
    Tensor drows = want_rows ? torch::zeros(rows.sizes(), rows.options().dtype(torch::kFloat)) : Tensor();
    for (int64_t at = 0; at < n; at += chunk) {
      int64_t len = std::min(chunk, n - at);
      Tensor hc = h.narrow(0, at, len), lc = labels.narrow(0, at, len).unsqueeze(1);
      Tensor logits = rows::fits(hc) ? by_columns(hc, w) : at::linear(hc, w).to(torch::kFloat);
      Tensor lse = at::logsumexp(logits, {1}, true);
      each.narrow(0, at, len).copy_((lse - logits.gather(1, lc)).squeeze(1));
      if (!want_h && !want_rows) continue;
      // Probabilities below e^-80 would be denormal numbers, which slow a matrix product down twentyfold.
      logits.sub_(lse).clamp_min_(-80).exp_().scatter_add_(1, lc, torch::full({len, 1}, -1.0, logits.options()));
      if (want_rows) drows.add_(at::mm(logits.index_select(1, row_ids).t(), hc.to(torch::kFloat)));
      if (want_h && rows::fits(hc)) by_columns_back(logits, w, dh.narrow(0, at, len));
      else if (want_h) dh.narrow(0, at, len).copy_(at::mm(logits.to(w.scalar_type()), w));
    }
    ctx->save_for_backward({dh, drows});
    ctx->mark_non_differentiable({each});
    return {each.sum(), each};
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    auto v = ctx->get_saved_variables();
    Tensor g = grads[0], dh, drows;
    if (v[0].defined()) dh = v[0] * g.to(v[0].scalar_type());
    if (v[1].defined()) drows = v[1] * g;
    return {dh, Tensor(), Tensor(), drows, Tensor(), Tensor(), Tensor()};
  }
};

Tensor sdpa(const Tensor &q, const Tensor &k, const Tensor &v, double scale, bool causal, const std::optional<Tensor> &mask = std::nullopt) {
  return at::scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale, q.size(1) != k.size(1));
}

} // namespace

char *cx_linear(void *x, void *w, void *scale, int bits, void *bias, void *a, void *b, double s, double p, uint64_t seed, void **out) {
  TRY(*out = give(Linear::apply(T(x), T(w), maybe(scale), int64_t(bits), maybe(bias), maybe(a), maybe(b), s, p, int64_t(seed))))
}
char *cx_rms_norm(void *x, void *w, double eps, void **out) { TRY(*out = give(RMSNorm::apply(T(x), T(w), eps))) }
char *cx_rope(void *x, void *cos, void *sin, void **out) { TRY(*out = give(Rope::apply(T(x), T(cos), T(sin)))) }
char *cx_swiglu(void *g, void *u, void **out) { TRY(*out = give(SwiGLU::apply(T(g), T(u)))) }

// Causal attention inside each of n sequences that lie one after another. q [T, heads, D], k and v [T, kv heads, D] -> [T, heads * D].
// No mask is passed unless the window is shorter than a sequence, so the flash kernels apply.
char *cx_attention(void *q_, void *k_, void *v_, const int64_t *lens, int n, double scale, int64_t window, void **out) {
  TRY(const Tensor &q = T(q_), &k = T(k_), &v = T(v_); int64_t total = q.size(0), width = q.size(1) * q.size(2);
      bool equal = true; for (int i = 1; i < n; i++) equal = equal && lens[i] == lens[0];
      auto heads = [](const Tensor &t, int64_t b) { return t.view({b, t.size(0) / b, t.size(1), t.size(2)}).transpose(1, 2); };
      auto one = [&](const Tensor &q, const Tensor &k, const Tensor &v, int64_t b, int64_t len) {
        Tensor qh = heads(q, b); Tensor kh = heads(k, b); Tensor vh = heads(v, b); Tensor y;
        if (window > 0 && len > window) {
          Tensor mask = torch::ones({len, len}, q.options().dtype(torch::kBool)).tril_().triu_(1 - window);
          y = sdpa(qh, kh, vh, scale, false, mask);
        } else y = sdpa(qh, kh, vh, scale, true);
        return y.transpose(1, 2).reshape({b * len, width});
      };
      if (equal) { *out = give(one(q.contiguous(), k.contiguous(), v.contiguous(), n, total / n)); return nullptr; }
      c10::IntArrayRef sizes(lens, n); std::vector<Tensor> y;
      auto qs = q.split_with_sizes(sizes); auto ks = k.split_with_sizes(sizes); auto vs = v.split_with_sizes(sizes);
      for (int i = 0; i < n; i++) y.push_back(one(qs[i], ks[i], vs[i], 1, lens[i]));
      *out = give(torch::cat(y)))
}

// One new query against everything before it. q [1, heads, D], k and v [T, kv heads, D] -> [1, heads * D].
char *cx_attend_cache(void *q, void *k, void *v, double scale, void **out) {
  TRY(auto h = [](const Tensor &t) { return t.unsqueeze(0).transpose(1, 2); };
      Tensor y = sdpa(h(T(q)), h(T(k)), h(T(v)), scale, false);
      *out = give(y.transpose(1, 2).reshape({1, -1})))
}

char *cx_linear_ce(void *h, void *w, void *labels, void *rows, void *row_ids, int64_t chunk, void **loss, void **each) {
  TRY(auto r = LinearCE::apply(T(h), T(w), T(labels), maybe(rows), maybe(row_ids), chunk, at::GradMode::is_enabled());
      *loss = give(r[0]); *each = give(r[1]))
}

// Symmetric integers with a scale for every kGroup columns; 4 bit values are stored plus 8, two a byte.
char *cx_quantize(void *w_, int bits, void **q, void **scale) {
  TRY(torch::NoGradGuard ng; const Tensor &w = T(w_);
      if (w.size(1) % kGroup) throw std::invalid_argument("the width of a quantised weight must be a multiple of 32");
      Tensor g = w.to(torch::kFloat).view({w.size(0), -1, kGroup});
      double top = bits == 8 ? 127 : 7;
      Tensor s = g.abs().amax({-1}).div_(top).clamp_min_(1e-10);
      Tensor v = (g / s.unsqueeze(-1)).round_().clamp_(-top, top).view({w.size(0), -1});
      if (bits == 8) v = v.to(torch::kInt8);
      else {
        v = v.add_(8).to(torch::kUInt8).view({w.size(0), -1, 2});
        v = v.select(-1, 0).bitwise_or(v.select(-1, 1).bitwise_left_shift(4)).contiguous();
      }
      *q = give(v); *scale = give(s.to(w.scalar_type())))
}
