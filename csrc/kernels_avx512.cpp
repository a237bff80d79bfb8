#include "simd_avx512.h"

#include "kernels.h"

namespace batchnorm {

const Instructions avx512_instructions = instructions<avx512::Isa>("avx512");

}  // namespace batchnorm
