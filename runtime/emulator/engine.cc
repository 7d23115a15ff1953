// Fibers, barriers, and who runs when.
#include "engine.h"

#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>

#include "state.h"

namespace emulator {

Place place;
std::vector<Thread> threads;
int current = -1;
uint32_t block_number, phase, first_phase, launch_number;
uintptr_t stack;

struct Fiber {
  ucontext_t context;
  void* jump[5];
  char* stack;
  bool entered = false;
};

namespace {

// What the processes of a launch share.
struct Common {
  std::atomic<uint32_t> next;  // of the blocks in their order
  std::atomic<bool> faulted;
  char fault[1024];
  uintptr_t fault_code;
};
Common* common = Map<Common>(1);

std::vector<Fiber*> idle;
ucontext_t scheduler_context;
void* scheduler[5];
Fiber* running;
const char* kernel_name;
void (*body)(void**);
void** body_arguments;
bool body_alone;
bool failed;  // the block that runs
int processes = 1;

// The order in which threads and blocks take turns.
struct Order {
  char kind = 'f';  // forward, reverse, or shuffled: anew each time
  uint32_t seed = 0;

  void Set(std::vector<int>& numbers, size_t count, uint32_t turn) const {
    if (numbers.size() == count && kind != 's') return;
    numbers.resize(count);
    std::iota(numbers.begin(), numbers.end(), 0);
    if (kind == 'r') std::reverse(numbers.begin(), numbers.end());
    std::mt19937 generator(seed * 7919u + turn);
    if (kind == 's') std::shuffle(numbers.begin(), numbers.end(), generator);
  }
};
Order order;
std::vector<int> block_order, warp_order, lane_order;

// The compiler's own jumps: those of the library take ten times as long, and a barrier takes two for each thread. They
// may not stand in one function with the place they go to.
[[noreturn]] __attribute__((noinline)) void Leave() { __builtin_longjmp(scheduler, 1); }
__attribute__((noinline)) void Enter() { __builtin_longjmp(running->jump, 1); }

void SetThread(int t) {
  unsigned x = place.block_size.x, y = place.block_size.y;
  current = t;
  place.thread = y == 1 && place.block_size.z == 1 ? Dim3{unsigned(t), 0, 0} : Dim3{t % x, t / x % y, t / x / y};
  SetStamp();
}

void Run() {
  for (;;) {
    if (body_alone)
      for (int warp : warp_order)
        for (int lane : lane_order) {
          if (warp * kWarp + lane >= int(threads.size())) continue;
          SetThread(warp * kWarp + lane);
          body(body_arguments);
        }
    else
      body(body_arguments);
    threads[current].state = State::kDone;
    if (!__builtin_setjmp(running->jump)) Leave();
  }
}

Fiber* Idle() {
  if (idle.empty()) {
    auto* fiber = new Fiber;
    fiber->stack = static_cast<char*>(mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    idle.push_back(fiber);
  }
  Fiber* fiber = idle.back();
  idle.pop_back();
  return fiber;
}

// Lets a thread run up to its next barrier or its end.
__attribute__((noinline)) void Resume(int t) {
  SetThread(t);
  Thread& thread = threads[t];
  if (thread.state == State::kNew) thread.fiber = Idle();
  thread.state = State::kReady;
  running = thread.fiber;
  stack = reinterpret_cast<uintptr_t>(running->stack);
  if (!__builtin_setjmp(scheduler)) {
    if (running->entered) Enter();
    running->entered = true;
    getcontext(&running->context);
    running->context.uc_stack.ss_sp = running->stack;
    // Stacks that begin at the same place in a page would push each other out of the CPU's cache.
    running->context.uc_stack.ss_size = kStack - t * 1088 % (kStack / 4);
    running->context.uc_link = nullptr;
    makecontext(&running->context, Run, 0);
    swapcontext(&scheduler_context, &running->context);
  }
  // Fibers that stopped in the midst of a kernel are not used again.
  if (!failed && threads[current].state == State::kDone) idle.push_back(running);
  current = -1;
}

__attribute__((noinline)) void Wait(State state, int line) {
  threads[current].state = state;
  threads[current].line = line;
  if (!__builtin_setjmp(running->jump)) Leave();
}

// Whether all lanes named by the mask of the thread that runs are where it is; if so they go on.
bool ReleaseWarp() {
  Thread& mine = threads[current];
  int first = current / kWarp * kWarp, lanes = std::min<int>(kWarp, threads.size() - first);
  unsigned mask = lanes == kWarp ? mine.mask : mine.mask & ((1u << lanes) - 1);
  for (int i = 0; i < lanes; ++i) {
    const Thread& other = threads[first + i];
    if (mask >> i & 1 && (other.state != State::kWarp || other.mask != mine.mask || other.perform != mine.perform))
      return false;
  }
  if (mine.perform) {
    void* brought[kWarp];
    for (int i = 0; i < kWarp; ++i) brought[i] = threads[first + i].brought;
    mine.perform(brought);
  }
  for (int i = 0; i < lanes; ++i)
    if (mask >> i & 1) threads[first + i].state = State::kReady, ++threads[first + i].warp_phase;
  SetStamp();
  return true;
}

void WaitForWarp(unsigned mask, void (*perform)(void* const*), int line) {
  Thread& thread = threads[current];
  thread.mask = mask, thread.perform = perform, thread.line = line, thread.state = State::kWarp;
  if (!ReleaseWarp()) Wait(State::kWarp, line);
}

// Frees the block from a barrier that all its threads have come to, or finds out why they never will.
void ReleaseBlock() {
  int waiting = -1, done = -1, warp = -1;
  for (int t = 0; t < int(threads.size()); ++t)
    (threads[t].state == State::kBarrier ? waiting : threads[t].state == State::kWarp ? warp : done) = t;
  if (warp >= 0)
    return Fault(0, "deadlock: %s waits for its warp at line %d, which others of the mask %08x never reach",
                 ThreadText(warp, block_number).c_str(), threads[warp].line, threads[warp].mask);
  if (done >= 0)
    return Fault(0, "divergent barrier: %s waits at line %d, %s has ended", ThreadText(waiting, block_number).c_str(),
                 threads[waiting].line, ThreadText(done, block_number).c_str());
  for (int t = 0; t < int(threads.size()); ++t)
    if (threads[t].line != threads[waiting].line)
      return Fault(0, "divergent barrier: %s waits at line %d, %s at line %d", ThreadText(t, block_number).c_str(),
                   threads[t].line, ThreadText(waiting, block_number).c_str(), threads[waiting].line);
  for (Thread& thread : threads) thread.state = State::kReady, thread.warp_phase = 0;
  ++phase;
}

void RunBlock() {
  unsigned count = place.block_size.x * place.block_size.y * place.block_size.z;
  order.Set(warp_order, (count + kWarp - 1) / kWarp, block_number * 2 + launch_number);
  order.Set(lane_order, kWarp, block_number * 2 + 1 + launch_number);
  threads.clear();
  threads.resize(count);
  failed = false;
  BeginBlock();
  if (body_alone) return Resume(0);
  for (;;) {
    for (int warp : warp_order)
      for (bool progress = true; progress;) {
        progress = false;
        for (int lane : lane_order) {
          size_t t = warp * kWarp + lane;
          if (t >= count || (threads[t].state != State::kNew && threads[t].state != State::kReady)) continue;
          Resume(t);
          if (failed) return;
          progress = true;
        }
      }
    if (std::all_of(threads.begin(), threads.end(), [](const Thread& t) { return t.state == State::kDone; })) break;
    ReleaseBlock();
    if (failed) return;
  }
  for (const Thread& thread : threads)
    for (const Copy& copy : thread.copies) Dropped(copy);
}

// Runs blocks until none is left. A process of its own is worth its start only where there is much to do: `helper` is
// started, once, when some time has gone by.
template <class Helper>
void RunBlocks(Helper start) {
  auto began = std::chrono::steady_clock::now();
  bool started = false;
  for (;;) {
    uint32_t i = common->next++;
    if (i >= block_order.size() || common->faulted) return;
    block_number = block_order[i];
    unsigned gx = place.grid_size.x, gy = place.grid_size.y;
    place.block = {block_number % gx, block_number / gx % gy, block_number / gx / gy};
    RunBlock();
    if (!started && i + 1 < block_order.size() && std::chrono::steady_clock::now() - began > std::chrono::milliseconds(20))
      started = true, start();
  }
}

}  // namespace

std::string ThreadText(int thread, uint32_t block) {
  char text[160];
  unsigned x = place.block_size.x, y = place.block_size.y, gx = place.grid_size.x, gy = place.grid_size.y;
  snprintf(text, sizeof text, "thread (%u, %u, %u) of block (%u, %u, %u)", thread % x, thread / x % y, thread / x / y,
           block % gx, block / gx % gy, block / gx / gy);
  return text;
}

void Fault(uintptr_t code, const char* format, ...) {
  char text[sizeof common->fault];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  failed = true;
  if (!common->faulted.exchange(true)) {
    snprintf(common->fault, sizeof common->fault, "kernel `%s`: %s", kernel_name, text);
    common->fault_code = code;
  }
  if (current >= 0) Leave();
}

int Launch(const char* name, const unsigned* grid, const unsigned* block, size_t dynamic_bytes, bool alone,
           const int* granules, void (*kernel)(void**), void** arguments) {
  kernel_name = name, body = kernel, body_arguments = arguments, body_alone = alone;
  common->faulted = false, common->next = 0;
  ++launch_number;
  phase = 0;
  place.grid_size = {grid[0], grid[1], grid[2]}, place.block_size = {block[0], block[1], block[2]};
  order.Set(block_order, size_t{grid[0]} * grid[1] * grid[2], launch_number);
  BeginLaunch(dynamic_bytes, granules, arguments);
  std::vector<pid_t> helpers;
  RunBlocks([&] {
    for (int i = 1; i < processes; ++i) {
      pid_t process = fork();
      if (process == 0) {
        RunBlocks([] {});
        _exit(0);
      }
      if (process > 0) helpers.push_back(process);
    }
  });
  for (pid_t process : helpers) {
    int status = 0;
    while (waitpid(process, &status, 0) < 0 && errno == EINTR) {
    }
    if (WIFSIGNALED(status)) Fault(0, "it was ended by signal %d", WTERMSIG(status));
  }
  return common->faulted ? -1 : 0;
}

void Barrier(int line) { Wait(State::kBarrier, line); }

void WarpBarrier(unsigned mask, int line) { WaitForWarp(mask, nullptr, line); }

uint64_t Exchange(unsigned mask, uint64_t value, int source, int line) {
  // Two places in turn: nobody comes to the exchange after the next one before all have read.
  int turn = threads[current].exchanges++ & 1;
  threads[current].value[turn] = value;
  WarpBarrier(mask, line);
  int first = current / kWarp * kWarp;
  bool there = source >= 0 && source < kWarp && mask >> source & 1 && first + source < int(threads.size());
  return there ? threads[first + source].value[turn] : value;
}

void Together(void* mine, void (*perform)(void* const*), int line) {
  threads[current].brought = mine;
  if (current / kWarp * kWarp + kWarp > int(threads.size()))
    return Fault(0, "%s is in a warp of less than 32 threads, line %d", ThreadText(current, block_number).c_str(), line);
  WaitForWarp(~0u, perform, line);
}

void CopyAsync(void* to, const void* from, int bytes, int valid, uintptr_t code) {
  Thread& thread = threads[current];
  thread.copies.push_back({to, from, bytes, valid, thread.commits, code});
  CheckCopy(thread.copies.back());
}

void Commit() { ++threads[current].commits; }

void WaitCopies(int groups) {
  Thread& thread = threads[current];
  int arrived = 0;
  for (const Copy& copy : thread.copies) {
    if (groups >= 0 && copy.group >= thread.commits - groups) break;
    Arrived(copy);
    memcpy(copy.to, copy.from, copy.valid);
    memset(static_cast<char*>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
    ++arrived;
  }
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + arrived);
}

}  // namespace emulator

extern "C" {
// What went wrong in the last launch, and the address of the code that did it (0: the text names the line).
const char* emulator_fault() { return emulator::common->faulted ? emulator::common->fault : nullptr; }
uintptr_t emulator_fault_code() { return emulator::common->fault_code; }
// kind: f (forward), r (reverse), s (shuffled, by `seed`).
void emulator_order(char kind, unsigned seed) {
  emulator::order = {kind, seed};
  for (auto* numbers : {&emulator::block_order, &emulator::warp_order, &emulator::lane_order}) numbers->clear();
}
// How many processes share the blocks of a launch.
void emulator_processes(int count) { emulator::processes = count; }
}
