// Memory in which a kernel cannot go wrong unseen: beyond one end lies a page that nothing may touch, beyond the
// other are bytes that nothing may change. What is given as const cannot be written at all.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace test {

class Guarded {
 public:
  enum class Page { before, after };

  Guarded(int64_t bytes, Page page) : bytes_(bytes), page_(page) {
    const int64_t size = sysconf(_SC_PAGESIZE);
    open_ = (bytes + size - 1) / size * size + size;
    whole_ = open_ + size;
    void *mapped =
        mmap(nullptr, static_cast<size_t>(whole_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) std::abort();
    memory_ = static_cast<unsigned char *>(mapped);
    first_ = memory_ + (page == Page::before ? size : 0);
    forbid(page == Page::before ? memory_ : memory_ + open_, size, PROT_NONE);
    std::memset(first_, canary, static_cast<size_t>(open_));
  }
  ~Guarded() { munmap(memory_, static_cast<size_t>(whole_)); }
  Guarded(const Guarded &) = delete;
  Guarded &operator=(const Guarded &) = delete;

  int64_t bytes() const { return bytes_; }
  unsigned char *data() const { return page_ == Page::before ? first_ : first_ + open_ - bytes_; }
  template <class T>
  T *as() const {
    return reinterpret_cast<T *>(data());
  }

  void lock() { forbid(first_, open_, PROT_READ); }

  bool is_intact() const {
    const unsigned char *spare = page_ == Page::before ? first_ + bytes_ : first_;
    for (int64_t i = 0; i < open_ - bytes_; ++i) {
      if (spare[i] != canary) return false;
    }
    return true;
  }

  bool operator==(const Guarded &other) const {
    return bytes_ == other.bytes_ && std::memcmp(data(), other.data(), static_cast<size_t>(bytes_)) == 0;
  }

 private:
  static constexpr unsigned char canary = 0xa5;

  static void forbid(void *from, int64_t bytes, int protection) {
    if (mprotect(from, static_cast<size_t>(bytes), protection) != 0) std::abort();
  }

  int64_t bytes_, open_ = 0, whole_ = 0;
  Page page_;
  unsigned char *memory_ = nullptr, *first_ = nullptr;
};

}  // namespace test
