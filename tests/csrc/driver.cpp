// Runs the kernels of every instruction set on odd sizes, and compares with plain formulas in double.
// Built with the sanitizers (`make sanitize`); its memory notices what these do not see of vector instructions.
#include <csignal>
#include <limits>
#include <thread>

#include "compare.h"
#include "huge.h"
#include "refusals.h"

const test::Options *test::at_work = nullptr;
int test::failures = 0;

namespace {

using namespace test;

struct sigaction sanitizer;

// Says what was computed, and leaves the rest of the report to the sanitizer.
void on_fault(int) {
  if (at_work != nullptr) describe("FAULT", *at_work);
  std::fflush(stdout);
  sigaction(SIGSEGV, &sanitizer, nullptr);
}

void on_alarm(int) {
  if (at_work != nullptr) describe("HANGS", *at_work);
  std::fflush(stdout);
  std::_Exit(EXIT_FAILURE);
}

void report_faults() {
  struct sigaction ours = {};
  ours.sa_handler = on_fault;
  sigaction(SIGSEGV, &ours, &sanitizer);
  ours.sa_handler = on_alarm;
  sigaction(SIGALRM, &ours, nullptr);
}

// Real threads, so that the sanitizers see what runs at once.
int32_t parallel_for(int64_t begin, int64_t end, int64_t, batchnorm_body body, void *context) {
  constexpr int64_t threads = 3;
  std::vector<std::thread> pool;
  for (int64_t t = 0; t < threads; ++t) {
    const int64_t from = begin + (end - begin) * t / threads, to = begin + (end - begin) * (t + 1) / threads;
    if (from < to) pool.emplace_back(body, from, to, context);
  }
  for (std::thread &thread : pool) thread.join();
  return 0;
}

bool is_finite(const Options &o) { return o.constant || std::isfinite(o.last); }

void compute(const Problem &p, int32_t threads) {
  batchnorm_call call = p.call(threads, threads > 1 ? parallel_for : nullptr);
  const int32_t expected = is_finite(p.options) ? BATCHNORM_OK : BATCHNORM_NOT_FINITE;
  const int32_t code = p.options.constant ? batchnorm_evaluate(&call) : batchnorm_train(&call);
  check(code == expected, "the code of a forward pass", p.options);
  if (p.options.signs) call.residual = nullptr;
  check(batchnorm_backward(&call) == BATCHNORM_OK, "the code of a backward pass", p.options);
}

// The output of the last channel is NaN, where relu lets gradients pass, as it stops them only at z <= 0.
void check_not_finite(const Problem &p) {
  const int64_t i = p.at(p.channels - 1, 0);
  const double slope = p.options.activation == BATCHNORM_RELU ? 1 : 0.01, gradient = slope * p.grad[i];
  check(std::isnan(p.y[i]), "y of what is not finite", p.options);
  const double tolerance = roundoff(p.options.dtype) * std::fabs(gradient);
  check(near(p.grad_residual[i], gradient, tolerance), "the slope at NaN", p.options);
}

void compare(const Problem &p, const Problem &before) {
  for (int64_t c = 0; c < p.channels && p.count > 0; ++c) {
    if (!is_finite(p.options) && c == p.channels - 1) {
      check_not_finite(p);
      continue;
    }
    Channel channel{p, c};
    if (!p.options.constant) channel.check_statistics();
    if (p.options.running && is_finite(p.options)) channel.check_running(before.running_mean[c], before.running_var[c]);
    channel.check_output();
    channel.add_gradients();
    if (p.options.vectors) channel.check_vectors();
    channel.check_gradients();
  }
}

void check_unchanged(const Problem &p, const Problem &before) {
  const Options &o = p.options;
  if (!o.running || !is_finite(o)) {
    check(p.running_mean.memory() == before.running_mean.memory(), "running_mean moved", o);
    check(p.running_var.memory() == before.running_var.memory(), "running_var moved", o);
  }
  check(o.input || p.grad_input.memory() == before.grad_input.memory(), "an unwanted gradient", o);
  check(o.residual_grad || p.grad_residual.memory() == before.grad_residual.memory(), "an unwanted gradient", o);
  check(o.low || p.low.memory() == before.low.memory(), "an unwanted low mean", o);
}

// What other threads, another place in memory, and the other functions give must be the same bit for bit.
void check_same(const Problem &p, const Problem &other) {
  const auto mine = p.outputs(), theirs = other.outputs();
  for (size_t i = 0; i < mine.size(); ++i) {
    check(mine[i]->is_intact() && theirs[i]->is_intact(), "written beyond the end", p.options);
    check(*mine[i] == *theirs[i], "threads or addresses change the result", p.options);
  }
  batchnorm_call call = other.call(1, nullptr);
  std::memset(other.y.data(), 0, static_cast<size_t>(other.y.memory().bytes()));
  check(batchnorm_normalize(&call) == BATCHNORM_OK, "the code of normalize", p.options);
  check(p.y.memory() == other.y.memory(), "normalize gives another result", p.options);
  if (p.options.constant) return;
  std::memset(other.var.data(), 0, static_cast<size_t>(other.var.memory().bytes()));
  const int32_t code = batchnorm_stats(&call);
  check(code == (is_finite(p.options) ? BATCHNORM_OK : BATCHNORM_NOT_FINITE), "the code of stats", p.options);
  check(p.var.memory() == other.var.memory() && p.mean.memory() == other.mean.memory(), "stats differ", p.options);
}

void run(const Options &options) {
  at_work = &options;
  alarm(60);
  const Problem before(options, Guarded::Page::after);
  const Problem p(options, Guarded::Page::after), other(options, Guarded::Page::before);
  compute(p, 3);
  compute(other, 1);
  compare(p, before);
  check_unchanged(p, before);
  check_same(p, other);
}

// The small sizes see every option, and the large ones a few.
void run_size(Size size, int32_t dtype) {
  const int64_t all = size.outer * size.channels * size.inner;
  const int step = all > 20000 ? 4 : 1;
  for (int32_t activation = BATCHNORM_NONE; activation <= BATCHNORM_TANH; activation += step) {
    const Options plain = {size, dtype, activation};
    Options full = plain, bare = plain, moving = plain, constant = plain;
    full.residual = bare.residual = constant.residual = true;
    full.signs = moving.signs = is_two_straight_pieces(activation);
    full.running = moving.running = size.outer * size.inner > 1;
    bare.affine = bare.low = bare.input = moving.low = moving.residual_grad = moving.vectors = false;
    constant.constant = true;
    run(plain);
    run(full);
    if (all > 4000) continue;
    for (const Options &options : {bare, moving, constant}) run(options);
    constant.signs = full.signs, constant.affine = constant.input = false;
    run(constant);
  }
}

void run_values(int32_t dtype) {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for (const Size size : {Size{33, 17, 1}, Size{3, 5, 49}, Size{5, 1, 300}, Size{300, 65, 1}}) {
    for (const double mean : {0.0, 0.1, 300.0, -3e5}) {
      for (const double deviation : {0.5, 0.0, 1e-30, 1e18}) {
        Options options = {size, dtype, BATCHNORM_NONE};
        options.mean = mean, options.deviation = deviation;
        run(options);
        options.affine = false, options.activation = BATCHNORM_RELU;  // of a constant channel, at 0
        run(options);
      }
    }
    for (const double last : {infinity, -infinity, nan, 1e18}) {
      for (const int32_t activation : {BATCHNORM_RELU, BATCHNORM_LEAKY_RELU}) {
        Options options = {size, dtype, activation};
        options.residual = options.running = true, options.last = last;
        run(options);
        options.signs = true;
        run(options);
      }
    }
  }
}

// Outputs that are written past the caches, aligned in one place in memory and not in the other.
void run_large() {
  const int64_t fitting = batchnorm_last_level_cache() / 2 / int64_t{sizeof(float)}, affordable = int64_t{8} << 20;
  if (fitting > affordable) return;
  const int64_t n = fitting + 1;
  const Size sizes[] = {{3, 5, n / 15 + 7},   {3, 5, n / 240 * 16 + 16}, {n / 12 + 1, 3, 4},
                        {n / 65 + 1, 65, 1}, {n / 64 + 1, 64, 1},       {n / 784 + 1, 16, 49}};
  for (const Size size : sizes) {
    Options options = {size, BATCHNORM_FLOAT, BATCHNORM_RELU};
    options.residual = options.signs = size.channels != 65;
    run(options);
  }
}

// Only sizes that are shared between threads: under its sanitizer all others are slow, and tell nothing.
void run_shared() {
  for (const Size size : {Size{2, 1, 40000}, Size{40, 128, 7}, Size{513, 130, 1}, Size{700, 3, 49}, Size{9, 5, 1000}}) {
    for (const int32_t dtype : {BATCHNORM_FLOAT, BATCHNORM_BFLOAT16}) run_size(size, dtype);
  }
}

void run_all() {
  const Size sizes[] = {
      {2, 1, 1},    {1, 3, 1},     {7, 1, 33},    {3, 65, 1},   {64, 100, 1},  {5, 3, 2},    {4, 6, 15},
      {33, 17, 1},  {3, 5, 16},    {3, 5, 17},    {9, 13, 49},  {2, 7, 196},   {1, 3, 5000}, {2, 4, 127},
      {6, 4, 128},  {65, 3, 31},   {4, 16, 4},    {0, 4, 9},    {4, 0, 9},     {4, 9, 0},    {1, 2, 70001},
      {300, 64, 1}, {2050, 16, 1}, {2, 1, 40000}, {40, 128, 7}, {513, 130, 1}, {700, 3, 49}};
  for (const int32_t dtype : {BATCHNORM_FLOAT, BATCHNORM_BFLOAT16}) {
    for (const Size size : sizes) run_size(size, dtype);
    run_values(dtype);
  }
  run_large();
}

// Rows and planes; their number of bytes is a multiple of a page.
void run_huge() {
  for (const Size size : {Size{65536, 65, 1}, Size{2048, 3, 1001}}) {
    Options options = {size, BATCHNORM_BFLOAT16, BATCHNORM_RELU};
    at_work = &options;
    const Problem one(options, Guarded::Page::before);
    compute(one, 3);
    Huge(one).run(parallel_for);
  }
}

void run_refusals() {
  for (const auto function :
       {batchnorm_stats, batchnorm_train, batchnorm_evaluate, batchnorm_normalize, batchnorm_backward}) {
    refuses_everywhere(function);
  }
  refuses_pointers();
  counts_beyond_32_bits();
  tells_of_failure();
}

void run_instructions(void (*run)()) {
  for (const char *instructions : {"portable", "avx2", "avx512"}) {
    if (batchnorm_restrict(instructions) != BATCHNORM_OK) continue;
    run_refusals();
    run();
    std::printf("%s: %d failures so far\n", instructions, failures);
    std::fflush(stdout);
  }
}

}  // namespace

// With the argument "shared", only what runs in several threads; with "huge", more than 2^31 values, by the best
// instructions alone, as that takes its time.
int main(int count, char **arguments) {
  const char *asked = count > 1 ? arguments[1] : "";
  report_faults();
  if (std::strcmp(asked, "huge") == 0) {
    run_huge();
    std::printf("%s: %d failures\n", batchnorm_instructions(), failures);
  } else {
    run_instructions(std::strcmp(asked, "shared") == 0 ? run_shared : run_all);
  }
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
