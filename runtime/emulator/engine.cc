// Fibers, barriers and the checks of accesses. With checks, kernels are compiled with the calls that -fsanitize=thread
// puts before each access, and those calls come here: bounds, races within and between blocks (an access must be
// ordered by a barrier after each access of another thread that it conflicts with), reads of shared memory before the
// first write.
#include "engine.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace emulator {

Place place;
bool checks;

namespace {

constexpr size_t kStack = 256 << 10;
constexpr uint16_t kNobody = 0xffff;

// When somebody touched a word: at which launch, in which block and thread, after how many barriers.
struct Stamp {
  uint32_t launch;
  uint32_t block;
  uint16_t phase, warp_phase, thread;
  bool several_threads, several_blocks;  // readers: others too, since the last barrier; in this launch
};
struct Cell {
  Stamp writer, reader;
};

// A piece of memory that kernels may use. Cells are made when first touched: for whole words, and for lone bytes.
struct Region {
  uintptr_t begin, end;
  bool shared;
  std::unique_ptr<Cell, void (*)(Cell*)> words, bytes;
  size_t size() const { return end - begin; }
};

enum class State { kNew, kReady, kBarrier, kWarp, kDone };

struct Fiber {
  ucontext_t context;
  void* jump[5];
  char* stack;
  bool entered = false;
};

struct Copy {
  void* to;
  const void* from;
  int bytes, valid;
  uintptr_t code;
};

struct Thread {
  Fiber* fiber;
  State state;
  int line;             // of the barrier where it waits
  unsigned mask;        // of the warp barrier where it waits
  uint16_t warp_phase;
  unsigned exchanges;
  uint64_t value[2];
  void* brought;
  std::deque<std::vector<Copy>> groups;  // committed and not waited for
  std::vector<Copy> started;
};

std::vector<std::unique_ptr<Region>> regions;  // of global memory, by address
std::vector<std::unique_ptr<Region>> shared;   // of the block that runs
std::vector<Thread> threads;
std::vector<Fiber*> idle;
constexpr size_t kGap = 64;
alignas(kGap) char memory[1 << 20];    // the shared memory of the block that runs, and how much of it is given out
size_t used;
std::vector<void*> arrays;             // by number; 0 is dynamic
size_t dynamic_size;
ucontext_t scheduler_context;
void* scheduler[5];
Fiber* running;
int current = -1;
uint32_t launch_number, block_number;
uint16_t phase;
bool faulted;
std::string fault_text;
uintptr_t fault_code;
const char* kernel_name;
void (*body)(void**);
void** body_arguments;

template <class T>
Region* Find(T& list, uintptr_t address) {
  auto after = std::upper_bound(list.begin(), list.end(), address,
                                [](uintptr_t a, const auto& region) { return a < region->begin; });
  if (after == list.begin()) return nullptr;
  Region* region = (after - 1)->get();
  return address < region->end ? region : nullptr;
}

template <class T>
void Insert(T& list, uintptr_t begin, size_t bytes, bool is_shared) {
  auto region = std::unique_ptr<Region>(
      new Region{begin, begin + bytes, is_shared, {nullptr, nullptr}, {nullptr, nullptr}});
  list.insert(std::upper_bound(list.begin(), list.end(), begin,
                               [](uintptr_t a, const auto& r) { return a < r->begin; }), std::move(region));
}

Cell* Cells(std::unique_ptr<Cell, void (*)(Cell*)>& cells, size_t count) {
  if (!cells) {
    // Zero bytes that take no memory before they are written.
    auto* fresh = static_cast<Cell*>(calloc(count, sizeof(Cell)));
    cells = {fresh, [](Cell* old) { free(old); }};
  }
  return cells.get();
}

std::string ThreadText(int thread, uint32_t block) {
  char text[160];
  unsigned x = place.block_size.x, y = place.block_size.y, gx = place.grid_size.x, gy = place.grid_size.y;
  snprintf(text, sizeof text, "thread (%u, %u, %u) of block (%u, %u, %u)", thread % x, thread / x % y, thread / x / y,
           block % gx, block / gx % gy, block / gx / gy);
  return text;
}

// The compiler's own jumps: those of the library take ten times as long, and a barrier takes two for each thread. They
// may not stand in one function with the place they go to.
[[noreturn]] __attribute__((noinline)) void Leave() { __builtin_longjmp(scheduler, 1); }
__attribute__((noinline)) void Enter() { __builtin_longjmp(running->jump, 1); }

void Fault(uintptr_t code, const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  faulted = true;
  fault_code = code;
  fault_text = std::string("kernel `") + kernel_name + "`: " + text;
  if (current >= 0) Leave();
}

void Run() {
  for (;;) {
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

void SetThread(int t) {
  unsigned x = place.block_size.x, y = place.block_size.y;
  place.thread = {t % x, t / x % y, t / x / y};
}

// Lets a thread run up to its next barrier or its end.
__attribute__((noinline)) void Resume(int t) {
  Thread& thread = threads[t];
  current = t;
  SetThread(t);
  if (thread.state == State::kNew) thread.fiber = Idle();
  thread.state = State::kReady;
  running = thread.fiber;
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
  current = -1;
  if (faulted) return;
  if (threads[t].state == State::kDone) idle.push_back(threads[t].fiber);
}

__attribute__((noinline)) void Wait(State state, int line) {
  threads[current].state = state;
  threads[current].line = line;
  if (!__builtin_setjmp(running->jump)) Leave();
}

unsigned LanesOf(int warp) {
  int lanes = std::min<int>(kWarp, threads.size() - warp * kWarp);
  return lanes == kWarp ? ~0u : (1u << lanes) - 1;
}

// Frees the warps all of whose named lanes have come to a warp barrier. Returns whether there was one.
bool ReleaseWarps() {
  bool released = false;
  for (int warp = 0; warp * kWarp < int(threads.size()); ++warp)
    for (int lane = 0; lane < kWarp && warp * kWarp + lane < int(threads.size()); ++lane) {
      Thread& first = threads[warp * kWarp + lane];
      if (first.state != State::kWarp) continue;
      unsigned mask = first.mask & LanesOf(warp), there = 0;
      for (int other = 0; other < kWarp; ++other)
        if (mask >> other & 1) {
          const Thread& thread = threads[warp * kWarp + other];
          if (thread.state == State::kWarp && thread.mask == first.mask) there |= 1u << other;
        }
      if (there != mask) continue;
      for (int other = 0; other < kWarp; ++other)
        if (mask >> other & 1) {
          threads[warp * kWarp + other].state = State::kReady;
          ++threads[warp * kWarp + other].warp_phase;
        }
      released = true;
    }
  return released;
}

// Frees the block from a barrier that all its threads have come to, or finds out why they never will.
void ReleaseBlock() {
  int waiting = -1, done = -1, warp = -1;
  for (int t = 0; t < int(threads.size()); ++t)
    (threads[t].state == State::kBarrier ? waiting : threads[t].state == State::kWarp ? warp : done) = t;
  if (warp >= 0) {
    Fault(0, "deadlock: %s waits for its warp at line %d, which others of the mask %08x never reach",
          ThreadText(warp, block_number).c_str(), threads[warp].line, threads[warp].mask);
    return;
  }
  if (done >= 0) {
    Fault(0, "divergent barrier: %s waits at line %d, %s has ended", ThreadText(waiting, block_number).c_str(),
          threads[waiting].line, ThreadText(done, block_number).c_str());
    return;
  }
  for (int t = 0; t < int(threads.size()); ++t)
    if (threads[t].line != threads[waiting].line) {
      Fault(0, "divergent barrier: %s waits at line %d, %s at line %d", ThreadText(t, block_number).c_str(),
            threads[t].line, ThreadText(waiting, block_number).c_str(), threads[waiting].line);
      return;
    }
  for (Thread& thread : threads) thread.state = State::kReady, thread.warp_phase = 0;
  ++phase;
}

// The order in which threads and blocks take turns.
struct Order {
  char kind = 'f';  // forward, reverse, or random: anew each time
  std::mt19937 generator;
  std::vector<int> numbers;

  const std::vector<int>& of(size_t count) {
    if (numbers.size() != count) {
      numbers.resize(count);
      std::iota(numbers.begin(), numbers.end(), 0);
      if (kind == 'r') std::reverse(numbers.begin(), numbers.end());
    }
    if (kind == 's') std::shuffle(numbers.begin(), numbers.end(), generator);
    return numbers;
  }
};
Order block_order, thread_order;

void RunBlock() {
  shared.clear(), arrays.clear(), used = 0;
  phase = 0;
  for (Thread& thread : threads) thread = {nullptr, State::kNew, 0, 0, 0, 0, {0, 0}};
  for (;;) {
    for (int t : thread_order.of(threads.size())) {
      if (threads[t].state != State::kNew && threads[t].state != State::kReady) continue;
      Resume(t);
      if (faulted) return;
    }
    if (ReleaseWarps()) continue;
    if (std::all_of(threads.begin(), threads.end(), [](const Thread& t) { return t.state == State::kDone; })) return;
    ReleaseBlock();
    if (faulted) return;
  }
}

// Whether an access at `stamp` by another thread is ordered before what the running thread does now.
bool Ordered(const Stamp& stamp) {
  if (stamp.launch != launch_number) return true;
  if (stamp.block != block_number) return false;
  if (stamp.thread == current || stamp.phase != phase) return true;
  return stamp.thread / kWarp == current / kWarp && stamp.warp_phase != threads[current].warp_phase;
}

void Race(const Region& region, uintptr_t address, const Stamp& other, const char* theirs, const char* ours,
          uintptr_t code) {
  const char* kind = region.shared ? "shared" : "global";
  Fault(code, "race in %s memory, byte %zu of %zu: %s %s what %s %s, and no barrier lies between", kind,
        size_t(address - region.begin), region.size(), ThreadText(current, block_number).c_str(), ours,
        ThreadText(other.thread, other.block).c_str(), theirs);
}

void Touch(Region& region, Cell& cell, uintptr_t address, bool write, uintptr_t code) {
  Stamp now{launch_number, block_number, phase, threads[current].warp_phase, uint16_t(current), false, false};
  Stamp& reader = cell.reader;
  if (region.shared && !write && (cell.writer.launch != launch_number || cell.writer.block != block_number)) {
    Fault(code, "%s reads shared memory that nobody wrote, byte %zu of %zu", ThreadText(current, block_number).c_str(),
          size_t(address - region.begin), region.size());
    return;
  }
  if (!Ordered(cell.writer)) return Race(region, address, cell.writer, "wrote", write ? "writes" : "reads", code);
  if (write) {
    bool same = reader.launch == launch_number;
    bool together = reader.phase == phase && reader.warp_phase == threads[current].warp_phase;
    if (!Ordered(reader) || (same && (reader.several_blocks || (reader.several_threads && together))))
      return Race(region, address, reader, "read", "writes", code);
    cell.writer = now;
    return;
  }
  if (reader.launch == launch_number) {
    bool same_phase = reader.block == block_number && reader.phase == phase;
    now.several_blocks = reader.several_blocks || reader.block != block_number;
    now.several_threads = same_phase && (reader.several_threads || reader.thread != current);
  }
  reader = now;
}

// The checks of one access. `code`: where in the kernel it stands.
void Access(const void* data, size_t bytes, bool write, uintptr_t code) {
  if (current < 0 || !checks) return;
  auto address = reinterpret_cast<uintptr_t>(data);
  auto stack = reinterpret_cast<uintptr_t>(running->stack);
  if (address - stack < kStack || address - reinterpret_cast<uintptr_t>(&place) < sizeof place) return;
  Region* region = Find(shared, address);
  if (!region) region = Find(regions, address);
  if (!region || address + bytes > region->end) {
    // The nearest region before it, or else after it, is what the kernel meant.
    const Region* near = nullptr;
    for (const auto* list : {&shared, &regions})
      for (const auto& r : *list) {
        auto distance = [&](const Region* n) { return std::min(address - n->end, n->begin - address); };
        if (!near || distance(r.get()) < distance(near)) near = r.get();
      }
    const char* verb = write ? "writes" : "reads";
    if (!near)
      return Fault(code, "%s %s memory that is not the GPU's", ThreadText(current, block_number).c_str(), verb);
    return Fault(code, "%s %s %s memory out of bounds: bytes %td to %td of %zu",
                 ThreadText(current, block_number).c_str(), verb, near->shared ? "shared" : "global",
                 ptrdiff_t(address - near->begin), ptrdiff_t(address - near->begin + bytes - 1), near->size());
  }
  size_t offset = address - region->begin;
  if (bytes % 4 == 0 && offset % 4 == 0) {
    Cell* cells = Cells(region->words, region->size() / 4 + 1);
    for (size_t i = 0; i < bytes; i += 4) Touch(*region, cells[(offset + i) / 4], address + i, write, code);
  } else {
    Cell* cells = Cells(region->bytes, region->size());
    for (size_t i = 0; i < bytes; ++i) Touch(*region, cells[offset + i], address + i, write, code);
  }
}

}  // namespace

int Launch(const char* name, const unsigned* grid, const unsigned* block, size_t dynamic_bytes, void (*kernel)(void**),
           void** arguments) {
  kernel_name = name, body = kernel, body_arguments = arguments;
  faulted = false;
  ++launch_number;
  place.grid_size = {grid[0], grid[1], grid[2]}, place.block_size = {block[0], block[1], block[2]};
  threads.resize(size_t{block[0]} * block[1] * block[2]);
  dynamic_size = dynamic_bytes;
  for (int b : block_order.of(size_t{grid[0]} * grid[1] * grid[2])) {
    block_number = b;
    place.block = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
    RunBlock();
    // Fibers that stopped in the midst of a kernel are not used again.
    if (faulted) return -1;
  }
  return 0;
}

void* SharedArray(int number, size_t bytes) {
  if (number >= int(arrays.size())) arrays.resize(number + 1);
  if (!arrays[number]) {
    void* data = arrays[number] = memory + used;
    used += (bytes + 2 * kGap - 1) / kGap * kGap;  // nobody may touch the gap
    memset(data, 0xff, bytes);
    Insert(shared, reinterpret_cast<uintptr_t>(data), bytes, true);
  }
  return arrays[number];
}

void* DynamicShared() { return SharedArray(0, dynamic_size); }

void Barrier(int line) { Wait(State::kBarrier, line); }

void WarpBarrier(unsigned mask, int line) {
  threads[current].mask = mask;
  Wait(State::kWarp, line);
}

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
  WarpBarrier(~0u, line);
  int first = current / kWarp * kWarp;
  if (current == first) {
    void* lanes[kWarp];
    for (int i = 0; i < kWarp; ++i) lanes[i] = threads[first + i].brought;
    perform(lanes);
  }
  WarpBarrier(~0u, line);
}

void Row(const void* data, size_t bytes, int, uintptr_t code) { Access(data, bytes, false, code); }

void CopyAsync(void* to, const void* from, int bytes, int valid, uintptr_t code) {
  threads[current].started.push_back({to, from, bytes, valid, code});
}

void Commit() {
  Thread& thread = threads[current];
  thread.groups.push_back(std::move(thread.started));
  thread.started.clear();
}

void WaitCopies(int groups) {
  Thread& thread = threads[current];
  if (groups < 0) Commit();
  for (; int(thread.groups.size()) > std::max(groups, 0); thread.groups.pop_front())
    for (const Copy& copy : thread.groups.front()) {
      if (copy.valid) Access(copy.from, copy.valid, false, copy.code);
      Access(copy.to, copy.bytes, true, copy.code);
      memset(copy.to, 0, copy.bytes);
      memcpy(copy.to, copy.from, copy.valid);
    }
}

void Atomic(const void* data, size_t bytes) {
  auto address = reinterpret_cast<uintptr_t>(data);
  for (auto* list : {&shared, &regions})
    if (Region* region = Find(*list, address); region && address + bytes <= region->end) return;
  if (!regions.empty())
    Fault(reinterpret_cast<uintptr_t>(__builtin_return_address(0)), "%s has an atomic out of bounds",
          ThreadText(current, block_number).c_str());
}

}  // namespace emulator

using emulator::Access;
#define CODE reinterpret_cast<uintptr_t>(__builtin_return_address(0))
#define ACCESS(bytes)                                                                       \
  void __tsan_read##bytes(void* data) { Access(data, bytes, false, CODE); }                 \
  void __tsan_write##bytes(void* data) { Access(data, bytes, true, CODE); }                 \
  void __tsan_unaligned_read##bytes(void* data) { Access(data, bytes, false, CODE); }       \
  void __tsan_unaligned_write##bytes(void* data) { Access(data, bytes, true, CODE); }       \
  void __tsan_volatile_read##bytes(void* data) { Access(data, bytes, false, CODE); }        \
  void __tsan_volatile_write##bytes(void* data) { Access(data, bytes, true, CODE); }

extern "C" {
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
void __tsan_read_range(void* data, size_t bytes) { Access(data, bytes, false, CODE); }
void __tsan_write_range(void* data, size_t bytes) { Access(data, bytes, true, CODE); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// Memory that kernels may use from now on, and no longer.
void emulator_register(uintptr_t data, size_t bytes) { emulator::Insert(emulator::regions, data, bytes, false); }
void emulator_release(uintptr_t data) {
  for (size_t i = 0; i < emulator::regions.size(); ++i)
    if (emulator::regions[i]->begin == data) emulator::regions.erase(emulator::regions.begin() + i--);
}
// What went wrong in the last launch, and the address of the code that did it (0: the text names the line).
const char* emulator_fault() { return emulator::faulted ? emulator::fault_text.c_str() : nullptr; }
uintptr_t emulator_fault_code() { return emulator::fault_code; }
// kind: f (forward), r (reverse), s (shuffled, by `seed`).
void emulator_order(char kind, unsigned seed) {
  for (auto* order : {&emulator::block_order, &emulator::thread_order}) *order = {kind, std::mt19937(seed), {}};
}
}
