#include "simd_avx2.h"

#include "kernels.h"

namespace batchnorm {

const Instructions avx2_instructions = instructions<avx2::Isa>("avx2");

}  // namespace batchnorm
