/* Batch normalization on the CPU: the C interface. No torch, no Python.
 *
 * Every tensor is dense and seen as (outer, channels, inner), inner fastest: NCHW is (N, C, H*W), channels-last is
 * (N*H*W, C, 1). Vectors have one float per channel. Inputs and outputs do not overlap.
 */
#ifndef BATCHNORM_CPU_H
#define BATCHNORM_CPU_H

#include <stdint.h>

#if defined(_WIN32)
#define BATCHNORM_EXPORT __declspec(dllexport)
#else
#define BATCHNORM_EXPORT __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { BATCHNORM_ABI = 1 };

enum { BATCHNORM_FLOAT = 0, BATCHNORM_BFLOAT16 = 1 };

enum {
  BATCHNORM_NONE = 0,
  BATCHNORM_RELU = 1,
  BATCHNORM_LEAKY_RELU = 2,
  BATCHNORM_ELU = 3,
  BATCHNORM_SILU = 4,
  BATCHNORM_GELU = 5,
  BATCHNORM_HARDSWISH = 6,
  BATCHNORM_SIGMOID = 7,
  BATCHNORM_TANH = 8
};

enum {
  BATCHNORM_OK = 0,
  BATCHNORM_BAD_ARGUMENT = 1,
  BATCHNORM_OUT_OF_MEMORY = 2,
  BATCHNORM_PARALLEL_FAILED = 3,
  BATCHNORM_NOT_FINITE = 4 /* of stats and train: done, but some mean or var is infinite or NaN */
};

typedef void (*batchnorm_body)(int64_t begin, int64_t end, void *context);

/* The signature of PyTorch's torch_parallel_for; 0 for success. */
typedef int32_t (*batchnorm_parallel_for)(int64_t begin, int64_t end, int64_t grain, batchnorm_body body,
                                          void *context);

/* What is not used by a function may be anything; what is marked "or null" may be missing. */
typedef struct {
  int64_t outer, channels, inner;
  int32_t dtype;      /* of x, residual, y and their gradients */
  int32_t activation; /* follows the addition of the residual */
  int32_t threads;    /* how many parallel_for uses */
  int32_t constant;   /* backward: the statistics do not depend on x */
  double eps;
  double momentum; /* weight of the new running statistics */
  batchnorm_parallel_for parallel_for; /* or null: serial */
  const void *x;
  const void *residual;         /* or null; of the shape of x, added before the activation */
  const float *weight, *bias;   /* or null: 1 and 0 */
  float *mean, *mean_low;       /* their sum is the mean; mean_low or null: 0 */
  float *var;                   /* correction 0 */
  float *invstd;                /* 1/sqrt(var + eps) */
  float *running_mean, *running_var; /* train: or null; moved. evaluate: read. The variance has correction 1 */
  uint16_t *signs;              /* or null; batchnorm_sign_words of them: where relu or leaky_relu let pass */
  void *y;
  const void *grad_output;
  void *grad_input, *grad_residual;   /* or null: not wanted */
  float *grad_weight, *grad_bias;     /* or null: not wanted */
} batchnorm_call;

/* mean, mean_low, var and invstd of x. */
BATCHNORM_EXPORT int32_t batchnorm_stats(const batchnorm_call *call);

/* The same, and y; with signs, these too. Where all of mean and var are finite, running_mean and running_var, if given,
 * are moved by momentum towards mean and var, corrected; that takes at least two values per channel. */
BATCHNORM_EXPORT int32_t batchnorm_train(const batchnorm_call *call);

/* y by running_mean and running_var; they are copied to mean, mean_low (0) and var, and give invstd. */
BATCHNORM_EXPORT int32_t batchnorm_evaluate(const batchnorm_call *call);

/* y by the mean, mean_low and invstd given; with signs, these too. */
BATCHNORM_EXPORT int32_t batchnorm_normalize(const batchnorm_call *call);

/* The gradients by mean, mean_low and invstd. The slope of the activation is recomputed from x and residual, or, with
 * signs, taken from them; then residual is not read. */
BATCHNORM_EXPORT int32_t batchnorm_backward(const batchnorm_call *call);

/* Length of signs; -1 where the sizes make no sense. */
BATCHNORM_EXPORT int64_t batchnorm_sign_words(int64_t outer, int64_t channels, int64_t inner, int32_t dtype);

/* Bytes of the last-level cache: larger outputs go past it. */
BATCHNORM_EXPORT int64_t batchnorm_last_level_cache(void);

BATCHNORM_EXPORT int32_t batchnorm_abi(void);

/* "portable", "avx2" or "avx512". */
BATCHNORM_EXPORT const char *batchnorm_instructions(void);

/* Use only what the name says, for tests; 0 where this machine has it. Not while another call is at work. */
BATCHNORM_EXPORT int32_t batchnorm_restrict(const char *instructions);

#ifdef __cplusplus
}
#endif

#endif
