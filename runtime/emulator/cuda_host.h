// The CUDA that generated kernels use, for a C++ compiler of the host.
#pragma once
#include <math.h>

#include <cstdint>
#include <cstring>

#include "engine.h"

#define __global__ __attribute__((noinline))  // in a launcher its accesses would not be checked
#define __device__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __shared__ static __attribute__((section("emulated_shared")))
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
#define EMULATOR_PLAIN __attribute__((no_sanitize("thread"), noinline))

using uint = unsigned;
using uchar = unsigned char;
using ushort = unsigned short;
struct __align__(8) float2 { float x, y; };
struct __align__(16) float4 { float x, y, z, w; };
struct __align__(8) int2 { int x, y; };
struct __align__(16) int4 { int x, y, z, w; };
struct __align__(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }

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

inline int Lane() {
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

template <class T>
EMULATOR_PLAIN T Add(T* data, T value) {
  Atomic(data, sizeof value);
  T before = *data;
  *data = before + value;
  return before;
}

template <class T>
EMULATOR_PLAIN T Max(T* data, T value) {
  Atomic(data, sizeof value);
  T before = *data;
  if (value > before) *data = value;
  return before;
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
template <class T>
inline T atomicAdd(T* data, T value) { return emulator::Add(data, value); }
template <class T>
inline T atomicMax(T* data, T value) { return emulator::Max(data, value); }
inline void __threadfence() {}
inline void __threadfence_block() {}
