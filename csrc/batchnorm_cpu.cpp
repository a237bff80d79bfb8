// The C interface: checks, and the choice of the instruction set.
#include "batchnorm_cpu.h"

#include <atomic>
#include <cmath>
#include <cstring>

#include "caches.h"
#include "instructions.h"
#include "pages.h"

namespace batchnorm {

namespace {

const Instructions *best() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return &avx512_instructions;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2_instructions;
#endif
  return &portable_instructions;
}

std::atomic<const Instructions *> &current() {
  static std::atomic<const Instructions *> instructions{best()};
  return instructions;
}

const Instructions *named(const char *name) {
  const Instructions *candidates[] = {
#if defined(__x86_64__)
      &avx512_instructions, &avx2_instructions,
#endif
      &portable_instructions};
  bool supported = false;
  for (const Instructions *candidate : candidates) {
    supported |= candidate == best();  // and all after it
    if (supported && std::strcmp(candidate->name, name) == 0) return candidate;
  }
  return nullptr;
}

// The number of values, or -1 where it has no meaning.
int64_t values(int64_t outer, int64_t channels, int64_t inner) {
  int64_t planes = 0, all = 0;
  if (outer < 0 || channels < 0 || inner < 0) return -1;
  if (__builtin_mul_overflow(outer, channels, &planes) || __builtin_mul_overflow(planes, inner, &all)) return -1;
  return all <= INT64_MAX / 64 && channels <= INT64_MAX / 1024 ? all : -1;
}

bool is_known(const batchnorm_call *call) {
  return call != nullptr && values(call->outer, call->channels, call->inner) >= 0 && call->dtype >= BATCHNORM_FLOAT &&
         call->dtype <= BATCHNORM_BFLOAT16 && call->activation >= BATCHNORM_NONE && call->activation <= BATCHNORM_TANH;
}

bool is_empty(const batchnorm_call &call) { return values(call.outer, call.channels, call.inner) == 0; }

int64_t bytes(const batchnorm_call &call) {
  return values(call.outer, call.channels, call.inner) * (call.dtype == BATCHNORM_BFLOAT16 ? 2 : 4);
}

bool has_statistics(const batchnorm_call &call) {
  return call.channels == 0 || (call.mean != nullptr && call.invstd != nullptr);
}

// Signs tell the slope of activations of two straight pieces only.
bool has_right_signs(const batchnorm_call &call) {
  return call.signs == nullptr || call.activation == BATCHNORM_RELU || call.activation == BATCHNORM_LEAKY_RELU;
}

int32_t forward(const batchnorm_call *call, Task task) {
  if (!is_known(call) || !has_statistics(*call)) return BATCHNORM_BAD_ARGUMENT;
  if (call->x == nullptr && !is_empty(*call)) return BATCHNORM_BAD_ARGUMENT;
  if (task != Task::normalize && call->channels > 0 && call->var == nullptr) return BATCHNORM_BAD_ARGUMENT;
  if (task != Task::stats && ((call->y == nullptr && !is_empty(*call)) || !has_right_signs(*call))) {
    return BATCHNORM_BAD_ARGUMENT;
  }
  if (task != Task::stats) prefer_huge_pages(call->y, bytes(*call));
  return call->channels == 0 ? BATCHNORM_OK : current().load()->forward(*call, task);
}

int32_t backward(const batchnorm_call *call) {
  if (!is_known(call) || !has_statistics(*call) || !has_right_signs(*call)) return BATCHNORM_BAD_ARGUMENT;
  if ((call->x == nullptr || call->grad_output == nullptr) && !is_empty(*call)) return BATCHNORM_BAD_ARGUMENT;
  prefer_huge_pages(call->grad_input, bytes(*call));
  prefer_huge_pages(call->grad_residual, bytes(*call));
  return call->channels == 0 ? BATCHNORM_OK : current().load()->backward(*call);
}

// The unbiased variance, in the precision it is kept in; it may overflow where the other does not.
float unbiased(const batchnorm_call &call, int64_t channel) {
  const double count = static_cast<double>(call.outer) * static_cast<double>(call.inner);
  return static_cast<float>(double{call.var[channel]} * (count / (count - 1)));
}

// running += momentum * (new - running), rounded once.
void move(float &running, double value, double momentum) {
  running = static_cast<float>(double{running} + momentum * (value - double{running}));
}

int32_t move_running(const batchnorm_call &call) {
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    if (!std::isfinite(unbiased(call, channel))) return BATCHNORM_NOT_FINITE;
  }
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    move(call.running_mean[channel], double{call.mean[channel]}, call.momentum);
    move(call.running_var[channel], double{unbiased(call, channel)}, call.momentum);
  }
  return BATCHNORM_OK;
}

int32_t train(const batchnorm_call *call) {
  const int32_t code = forward(call, Task::train);
  if (code != BATCHNORM_OK || call->running_mean == nullptr || call->running_var == nullptr) return code;
  return move_running(*call);
}

int32_t evaluate(const batchnorm_call *call) {
  if (!is_known(call) || !has_statistics(*call)) return BATCHNORM_BAD_ARGUMENT;
  if (call->channels > 0 && (call->running_mean == nullptr || call->running_var == nullptr)) {
    return BATCHNORM_BAD_ARGUMENT;
  }
  for (int64_t channel = 0; channel < call->channels; ++channel) {
    const float var = call->running_var[channel];
    call->mean[channel] = call->running_mean[channel];
    if (call->mean_low != nullptr) call->mean_low[channel] = 0;
    if (call->var != nullptr) call->var[channel] = var;
    call->invstd[channel] = static_cast<float>(1 / std::sqrt(double{var} + call->eps));
  }
  return forward(call, Task::normalize);
}

}  // namespace

}  // namespace batchnorm

int32_t batchnorm_stats(const batchnorm_call *call) { return batchnorm::forward(call, batchnorm::Task::stats); }

int32_t batchnorm_train(const batchnorm_call *call) { return batchnorm::train(call); }

int32_t batchnorm_evaluate(const batchnorm_call *call) { return batchnorm::evaluate(call); }

int32_t batchnorm_normalize(const batchnorm_call *call) {
  return batchnorm::forward(call, batchnorm::Task::normalize);
}

int32_t batchnorm_backward(const batchnorm_call *call) { return batchnorm::backward(call); }

int64_t batchnorm_sign_words(int64_t outer, int64_t channels, int64_t inner, int32_t dtype) {
  batchnorm_call call = {};
  call.outer = outer;
  call.channels = channels;
  call.inner = inner;
  call.dtype = dtype;
  if (!batchnorm::is_known(&call)) return -1;
  return batchnorm::is_empty(call) ? 0 : batchnorm::current().load()->sign_words(call);
}

int64_t batchnorm_last_level_cache(void) { return batchnorm::last_level_cache(); }

int32_t batchnorm_abi(void) { return BATCHNORM_ABI; }

const char *batchnorm_instructions(void) { return batchnorm::current().load()->name; }

int32_t batchnorm_restrict(const char *instructions) {
  const batchnorm::Instructions *found = instructions == nullptr ? nullptr : batchnorm::named(instructions);
  if (found == nullptr) return BATCHNORM_BAD_ARGUMENT;
  batchnorm::current().store(found);
  return BATCHNORM_OK;
}
