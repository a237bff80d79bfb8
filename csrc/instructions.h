// The interface between the instruction sets, each compiled on its own, and the rest.
#pragma once

#include "batchnorm_cpu.h"

namespace batchnorm {

enum class Task { stats, train, normalize };

struct Instructions {
  const char *name;
  int32_t (*forward)(const batchnorm_call &, Task);
  int32_t (*backward)(const batchnorm_call &);
  int64_t (*sign_words)(const batchnorm_call &);
};

extern const Instructions portable_instructions;
#if defined(__x86_64__)
extern const Instructions avx2_instructions;
extern const Instructions avx512_instructions;
#endif

}  // namespace batchnorm
