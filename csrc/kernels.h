// The kernels of one instruction set, chosen by the type, the activation and the sizes of a call.
#pragma once

#include "backward.h"
#include "forward.h"
#include "instructions.h"
#include "planes.h"
#include "rows.h"

namespace batchnorm {
namespace {

// Calls f with the access pattern for a call; of a value, `size` bytes shall stay in the caches.
template <class Isa, class F>
auto with_access(const batchnorm_call &call, int64_t size, F f) {
  using V = typename Isa::Float;
  const int64_t outer = call.inner == 0 ? 0 : call.outer, inner = std::max<int64_t>(1, call.inner);
  const int64_t resident = resident_bytes / size, threads = std::max(1, call.threads);
  if (inner >= V::lanes) return f(Planes<Isa, V>(outer, call.channels, inner, resident, threads));
  // With one channel, all values are neighbors.
  if (call.channels == 1 && outer * inner >= V::lanes) {
    return f(Planes<Isa, V>(1, 1, outer * inner, resident, threads));
  }
  return f(Rows<Isa, V>(outer, call.channels, inner));
}

template <class F>
int32_t with_activation(int32_t activation, F f) {
  if (activation == BATCHNORM_NONE) return f(None(activation));
  if (activation == BATCHNORM_RELU) return f(Relu(activation));
  return f(Curved(activation));
}

template <class F>
auto with_type(int32_t dtype, F f) {
  return dtype == BATCHNORM_BFLOAT16 ? f(Bfloat16()) : f(float());
}

template <class Isa>
int32_t forward(const batchnorm_call &call, Task task) {
  return with_type(call.dtype, [&](auto scalar) {
    using V = typename Isa::Float;
    using T = decltype(scalar);
    return with_access<Isa>(call, sizeof(T), [&](const auto &access) {
      using Access = std::decay_t<decltype(access)>;
      if (task == Task::stats) return Forward<Access, V, T, None>::run(call, access, task);
      return with_activation(call.activation, [&](auto activation) {
        return Forward<Access, V, T, decltype(activation)>::run(call, access, task);
      });
    });
  });
}

template <class Isa>
int32_t backward(const batchnorm_call &call) {
  return with_type(call.dtype, [&](auto scalar) {
    using V = typename Isa::Float;
    using T = decltype(scalar);
    return with_access<Isa>(call, 2 * sizeof(T), [&](const auto &access) {
      using Access = std::decay_t<decltype(access)>;
      return with_activation(call.activation, [&](auto activation) {
        return Backward<Access, V, T, decltype(activation)>::run(call, access);
      });
    });
  });
}

template <class Isa>
int64_t sign_words(const batchnorm_call &call) {
  return with_access<Isa>(call, 4, [](const auto &access) { return access.sign_words(); });
}

template <class Isa>
constexpr Instructions instructions(const char *name) {
  return {name, forward<Isa>, backward<Isa>, sign_words<Isa>};
}

}  // namespace
}  // namespace batchnorm
