// What runs generated CUDA kernels on the CPU: one fiber for each CUDA thread of a block, blocks one after the other.
// Kernels see this through cuda_host.h; launchers and memory checks are reached by name, from Python.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator {

struct Dim3 {
  unsigned x, y, z;
};

// Where the thread that runs now stands; kernels read it.
struct Place {
  Dim3 thread, block, block_size, grid_size;
};
extern Place place;

constexpr int kWarp = 32;

// Runs `kernel(arguments)` for every thread of every block. Returns 0, or -1 after a fault, which `fault()` describes.
int Launch(const char* name, const unsigned* grid, const unsigned* block, size_t dynamic_bytes,
           void (*kernel)(void** arguments), void** arguments);

// Makes a shared array known to the block: filled with NaN, and not yet written by anyone.
void Shared(void* data, size_t bytes);
void* DynamicShared();

void Barrier(int line);
void WarpBarrier(unsigned mask, int line);
// The value that lane `source` of the warp brought to the same exchange; of this thread where there is none.
uint64_t Exchange(unsigned mask, uint64_t value, int source, int line);

// Bounds and order of an access that is atomic, so that it races with none of its kind.
void Atomic(const void* data, size_t bytes);

}  // namespace emulator
