#include "simd_portable.h"

#include "kernels.h"

namespace batchnorm {

const Instructions portable_instructions = instructions<portable::Isa>("portable");

}  // namespace batchnorm
