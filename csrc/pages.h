// Pages of memory.
#pragma once

#include <cstdint>

namespace batchnorm {

// Ask for huge pages where a large output is about to be written for the first time: of small ones, the system maps
// and clears each on its own, which takes longer than to compute what is written.
void prefer_huge_pages(void *to, int64_t bytes);

}  // namespace batchnorm
