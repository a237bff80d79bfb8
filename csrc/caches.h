// What fits into the caches.
#pragma once

#include <cstdint>

namespace batchnorm {

// Of a group of channels, what is read a second time from a thread's share of the caches.
constexpr int64_t resident_bytes = 2 << 20;

// Bytes of the last-level cache that the cores share; a guess where the system does not tell.
int64_t last_level_cache();

// Whether an output is better written past the caches, and aligned for it: where all tensors together are so many bytes
// that nothing would be left of them in the last-level cache for who reads them next.
bool can_stream(int64_t bytes, const void *to);

}  // namespace batchnorm
