// What runs generated CUDA kernels on the CPU: one fiber for each CUDA thread of a block, blocks one after the other, or in
// several processes. Kernels see this through cuda_host.h; launchers and memory checks are reached by name, from Python.
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
extern const bool checks;  // whether accesses are looked at; the kernels say it

constexpr int kWarp = 32;

// Runs `kernel(arguments)` for every thread of every block. alone: no thread waits for another. granules: for each argument
// the bytes of an element that it points to, 0 for numbers. Returns 0, or -1 after a fault, which `emulator_fault` describes.
int Launch(const char* name, const unsigned* grid, const unsigned* block, size_t dynamic_bytes, bool alone,
           const int* granules, void (*kernel)(void** arguments), void** arguments);

// The shared array of this number in the block, 0 being the dynamic one: at first filled with NaN, and not yet written by
// anyone. granule: bytes of its smallest accesses.
void* SharedArray(int number, size_t bytes, int granule);
void* DynamicShared(int granule);

void Barrier(int line);
void WarpBarrier(unsigned mask, int line);
// The value that lane `source` of the warp brought to the same exchange; of this thread where there is none.
uint64_t Exchange(unsigned mask, uint64_t value, int source, int line);
// All lanes of the warp come, each with something of its own; perform(all of it, by lane) is called once.
void Together(void* mine, void (*perform)(void* const* lanes), int line);
// Ends the block: an access to a vector at an address that is no multiple of its alignment.
void Misaligned(const void* data, size_t alignment);
// The checks of reading `bytes` of shared memory for `lane` of the warp that performs; `code`: where it was asked to.
void Row(const void* data, size_t bytes, int lane, uintptr_t code);

// Copies that arrive when they are waited for. WaitCopies: until `groups` are on their way; -1: until nothing is.
void CopyAsync(void* to, const void* from, int bytes, int valid, uintptr_t code);
void Commit();
void WaitCopies(int groups);

// Around what is done in one step with a word of memory: no other atomic comes between.
void BeginAtomic(const void* data, size_t bytes, uintptr_t code);
void EndAtomic();
void Fence();

}  // namespace emulator
