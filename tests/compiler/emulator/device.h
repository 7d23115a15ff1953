// The CUDA that generated kernels use, for g++: one fiber for each thread of a block, switched at barriers. Shared
// memory is filled with NaN before every block, so that a read before the write shows.
#pragma once
#include <math.h>
#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#define __global__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("emulated_shared")))
#define alignas(bytes) __attribute__((aligned(bytes)))
#define CUDART_INF_F INFINITY
#define CUDART_INF ((double)INFINITY)
#define CUDART_NAN_F NAN
#define CUDART_NAN ((double)NAN)
using uint = unsigned;
using uchar = unsigned char;
using ushort = unsigned short;

inline float max(float a, float b) { return fmaxf(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline int max(int a, int b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

struct Dim3 {
  unsigned x, y, z;
};
static Dim3 threadIdx, blockIdx, blockDim, gridDim;

extern char __start_emulated_shared[] __attribute__((weak));
extern char __stop_emulated_shared[] __attribute__((weak));

namespace emulator {

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(64 << 10);
  Dim3 index;
  bool done;
};

static ucontext_t scheduler;
static Fiber* current;
static std::function<void()> body;

// Runs a kernel without barriers: one thread after the other.
static void RunApart(const unsigned* grid, const unsigned* block, std::function<void()> kernel) {
  gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block[0], block[1], block[2]};
  for (blockIdx.z = 0; blockIdx.z < gridDim.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x)
        for (threadIdx.z = 0; threadIdx.z < blockDim.z; ++threadIdx.z)
          for (threadIdx.y = 0; threadIdx.y < blockDim.y; ++threadIdx.y)
            for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x) kernel();
}

static void Enter() {
  body();
  current->done = true;
}

// Runs `kernel` for all blocks in turn. Threads go in falling order between odd barriers, so that a kernel that needs a
// barrier it does not have is unlikely to be right by chance.
static void Run(const unsigned* grid, const unsigned* block, std::function<void()> kernel) {
  body = std::move(kernel);
  gridDim = {grid[0], grid[1], grid[2]}, blockDim = {block[0], block[1], block[2]};
  static std::vector<Fiber> fibers;
  fibers.resize(block[0] * block[1] * block[2]);
  for (unsigned b = 0; b < grid[0] * grid[1] * grid[2]; ++b) {
    blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
    if (__start_emulated_shared)
      memset(__start_emulated_shared, 0xff, __stop_emulated_shared - __start_emulated_shared);
    for (unsigned t = 0; t < fibers.size(); ++t) {
      Fiber& fiber = fibers[t];
      fiber.index = {t % block[0], t / block[0] % block[1], t / block[0] / block[1]};
      fiber.done = false;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      fiber.context.uc_link = &scheduler;
      makecontext(&fiber.context, Enter, 0);
    }
    bool running = true;
    for (unsigned phase = 0; running; ++phase) {
      running = false;
      for (unsigned i = 0; i < fibers.size(); ++i) {
        current = &fibers[phase % 2 ? fibers.size() - 1 - i : i];
        if (current->done) continue;
        threadIdx = current->index;
        swapcontext(&scheduler, &current->context);
        running |= !current->done;
      }
    }
  }
}

}  // namespace emulator

inline void __syncthreads() { swapcontext(&emulator::current->context, &emulator::scheduler); }
