// The CUDA that generated kernels use, for a C++ compiler of the host.
#pragma once
#include "cuda_types.h"
#include "engine.h"

#define __global__ __attribute__((noinline))  // in a launcher its accesses would not be checked
#define __device__
#define __forceinline__ EMULATOR_INLINE
#define __launch_bounds__(...)
#define __restrict__

#define __align__(bytes) __attribute__((aligned(bytes)))
#define alignas(bytes) __attribute__((aligned(bytes)))
#define CUDART_INF_F INFINITY
#define CUDART_INF ((double)INFINITY)
#define CUDART_NAN_F NAN
#define CUDART_NAN ((double)NAN)
#define threadIdx emulator::place.thread
#define blockIdx emulator::place.block
#define blockDim emulator::place.block_size
#define gridDim emulator::place.grid_size
#define __syncthreads() emulator::Barrier(__LINE__)
#define __syncwarp(...) emulator::WarpBarrier(~0u, __LINE__)
// Where a function was called from; it may not be inlined.
#define EMULATOR_CODE reinterpret_cast<uintptr_t>(__builtin_return_address(0))

inline float max(float a, float b) { return fmaxf(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline int max(int a, int b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
template <class T>
inline T __ldg(const T* data) { return *data; }

namespace emulator {

EMULATOR_PLAIN inline int Lane() {
  return (place.thread.x + place.block_size.x * (place.thread.y + place.block_size.y * place.thread.z)) % kWarp;
}

// A shuffle within groups of `width` lanes. Lanes that the group lacks give back the thread's own value.
template <class T>
EMULATOR_PLAIN T Shuffle(unsigned mask, T value, int source, int width, int line) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t sent = 0;
  memcpy(&sent, &value, sizeof value);
  if (source / width != Lane() / width || source < 0) source = Lane();
  uint64_t got = Exchange(mask, sent, source, line);
  memcpy(&value, &got, sizeof value);
  return value;
}

// One step that no other atomic comes between: the word becomes change(word). Returns what it was.
template <class T, class Change>
EMULATOR_PLAIN __attribute__((noinline)) T Atomic(T* data, Change change) {
  BeginAtomic(data, sizeof *data, EMULATOR_CODE);
  T before = *data;
  *data = change(before);
  EndAtomic();
  return before;
}

// What an uninitialized variable holds: NaN, where it is a number with a point.
template <class T>
EMULATOR_PLAIN __forceinline__ T Unwritten() {
  T value;
  memset(&value, 0xff, sizeof value);
  return value;
}

template <class... T>
constexpr int Smallest(size_t first, T... others) {
  ((first = others < first ? others : first), ...);
  return int(first);
}

// A pointer to a vector, looked at.
template <class T>
__forceinline__ T* Aligned(const void* data) {
  if (reinterpret_cast<uintptr_t>(data) % alignof(T)) Misaligned(data, alignof(T));
  return static_cast<T*>(const_cast<void*>(data));
}

}  // namespace emulator

#define EMULATOR_WIDTH(_, width, ...) (width)
#define EMULATOR_SHUFFLE(mask, value, source, ...) \
  emulator::Shuffle(mask, value, source, EMULATOR_WIDTH(, ##__VA_ARGS__, 32), __LINE__)
#define __shfl_sync(mask, value, lane, ...) \
  EMULATOR_SHUFFLE(mask, value, emulator::Lane() / EMULATOR_WIDTH(, ##__VA_ARGS__, 32) * \
                   EMULATOR_WIDTH(, ##__VA_ARGS__, 32) + (lane) % EMULATOR_WIDTH(, ##__VA_ARGS__, 32), ##__VA_ARGS__)
#define __shfl_xor_sync(mask, value, lanes, ...) \
  EMULATOR_SHUFFLE(mask, value, emulator::Lane() ^ (lanes), ##__VA_ARGS__)
#define __shfl_down_sync(mask, value, lanes, ...) \
  EMULATOR_SHUFFLE(mask, value, emulator::Lane() + (lanes), ##__VA_ARGS__)
#define __shfl_up_sync(mask, value, lanes, ...) \
  EMULATOR_SHUFFLE(mask, value, emulator::Lane() - (lanes), ##__VA_ARGS__)
#define __activemask() (~0u)
#define EMULATOR_ATOMIC(name, expression)                                                     \
  template <class T>                                                                          \
  __forceinline__ T name(T* data, T value) {                                                  \
    return emulator::Atomic(data, [value](T before) EMULATOR_PLAIN -> T { return expression; }); \
  }
EMULATOR_ATOMIC(atomicAdd, before + value)
EMULATOR_ATOMIC(atomicSub, before - value)
EMULATOR_ATOMIC(atomicMax, value > before ? value : before)
EMULATOR_ATOMIC(atomicMin, value < before ? value : before)
EMULATOR_ATOMIC(atomicExch, value)
EMULATOR_ATOMIC(atomicAnd, before & value)
EMULATOR_ATOMIC(atomicOr, before | value)
EMULATOR_ATOMIC(atomicXor, before ^ value)
EMULATOR_ATOMIC(atomicInc, before >= value ? 0 : before + 1)
EMULATOR_ATOMIC(atomicDec, before == 0 || before > value ? value : before - 1)
template <class T>
__forceinline__ T atomicCAS(T* data, T expected, T value) {
  return emulator::Atomic(data, [=](T before) EMULATOR_PLAIN -> T { return before == expected ? value : before; });
}
__forceinline__ void __threadfence() { emulator::Fence(); }
inline void __threadfence_block() {}
