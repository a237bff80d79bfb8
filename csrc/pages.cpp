#include "pages.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace batchnorm {

void prefer_huge_pages(void *to, int64_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 4096;       // the smallest there is; the system rounds up to its own
  constexpr int64_t worthwhile = 4 << 20;  // two huge pages on most systems
  if (to == nullptr || bytes < worthwhile) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(to) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(to) + static_cast<uintptr_t>(bytes)) / page * page;
  // It is a wish: where it is refused, nothing is lost.
  (void)madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)to;
  (void)bytes;
#endif
}

}  // namespace batchnorm
