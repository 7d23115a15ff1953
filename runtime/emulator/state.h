// What engine.cc (who runs) and checks.cc (what it may touch) share.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "engine.h"

namespace emulator {

constexpr size_t kStack = 256 << 10;

// A copy that is on its way, and how many commits its thread had made when it started.
struct Copy {
  void* to;
  const void* from;
  int bytes, valid, group;
  uintptr_t code;
};

enum class State { kNew, kReady, kBarrier, kWarp, kDone };

struct Fiber;

struct Thread {
  Fiber* fiber = nullptr;
  State state = State::kNew;
  int line = 0;                       // of the barrier where it waits
  unsigned mask = 0;                  // of the warp barrier where it waits
  void (*perform)(void* const*) = nullptr;
  void* brought = nullptr;
  uint32_t warp_phase = 0;            // barriers of its warp since the last of the block
  uint32_t fence = 0;                 // the phase of its last fence
  unsigned exchanges = 0;
  uint64_t value[2];
  std::vector<Copy> copies;
  int commits = 0;
};

// Of the block that runs.
extern std::vector<Thread> threads;
extern int current;
extern uint32_t block_number, phase, first_phase;
extern uintptr_t stack;  // of the thread that runs
extern uint32_t launch_number;

std::string ThreadText(int thread, uint32_t block);
// Says what went wrong and ends the block.
void Fault(uintptr_t code, const char* format, ...);

// checks.cc
void BeginLaunch(size_t dynamic_bytes, const int* granules, void** arguments);
void BeginBlock();
void SetStamp();  // after `current`, `phase` or the phase of a warp changed
void CheckCopy(const Copy& copy);  // when it starts
void Arrived(const Copy& copy);
void Dropped(const Copy& copy);

// Memory that processes share, zeros at first, and none before it is touched.
template <class T>
T* Map(size_t count) {
  void* data = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return data == MAP_FAILED ? nullptr : static_cast<T*>(data);
}

}  // namespace emulator
