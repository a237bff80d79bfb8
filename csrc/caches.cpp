#include "caches.h"

#include <cstdio>

namespace batchnorm {

namespace {

constexpr int64_t typical_cache = 32 << 20;

// sysconf asks the processor, which in a virtual machine may answer for all of its sockets together.
int64_t read_last_level_cache() {
  int64_t kilobytes = 0;
  if (std::FILE *file = std::fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r")) {
    long long number = 0;
    if (std::fscanf(file, "%lldK", &number) == 1) kilobytes = number;
    std::fclose(file);
  }
  return kilobytes > 0 ? kilobytes << 10 : typical_cache;
}

}  // namespace

int64_t last_level_cache() {
  static const int64_t bytes = read_last_level_cache();
  return bytes;
}

bool can_stream(int64_t bytes, const void *to) {
  constexpr uintptr_t longest_vector = 64;
  return bytes > last_level_cache() && reinterpret_cast<uintptr_t>(to) % longest_vector == 0;
}

}  // namespace batchnorm
