// The memory of the emulated GPU, and the checks of accesses to it. With checks, kernels are compiled with the calls that
// -fsanitize=thread puts before each access, and those calls come here: bounds, alignment, races within and between blocks
// (an access must be ordered by a barrier after each access of another thread that it conflicts with), reads of shared
// memory before the first write, and of what a cp.async has not brought yet.
#include <cstdio>
#include <memory>

#include "state.h"

namespace emulator {

namespace {

// When a thread of the block touched a word: the phase, how many barriers of the block came before, in the upper half; then
// flags, how many of its warp since then, and the thread. Readers: whether others did too since the last barrier.
using Stamp = uint64_t;
constexpr Stamp kThread = 1023, kAtomic = Stamp{1} << 29, kSeveralThreads = Stamp{1} << 30, kSeveralWarps = Stamp{1} << 31;
constexpr int kWarpPhaseAt = 10, kWarpPhases = (1 << 19) - 1;
constexpr uint32_t kPending = ~0u;  // the phase of a word that a copy is on its way to

uint32_t Phase(Stamp stamp) { return stamp >> 32; }
int ThreadOf(Stamp stamp) { return stamp & kThread; }
uint32_t WarpPhase(Stamp stamp) { return stamp >> kWarpPhaseAt & kWarpPhases; }
Stamp now;  // of the thread that runs

// A word, or less, of shared memory: who wrote and who read it last.
struct Cell {
  Stamp writer, reader;
};

struct Array {
  char* begin = nullptr;
  size_t bytes;
  int shift;           // of an offset in it to the number of a cell
  bool known = false;  // in the block that runs
  std::unique_ptr<Cell[]> cells;
};

// A word of global memory. Blocks are those of one launch, in the upper half, so that what other launches did is nothing;
// processes write here at once. Stamps are those of the block.
struct GlobalCell {
  std::atomic<uint64_t> writing_block, reading_block;
  Stamp writer, reader;
};
constexpr uint32_t kSeveralBlocks = ~0u;

// Memory that kernels may use, and what was done to its words, made when it is first needed.
struct Region {
  uintptr_t begin, end;
  GlobalCell* cells = nullptr;
  int shift;
};

// What the kernel of this launch may touch: a tensor, or else all of a region.
struct Range {
  uintptr_t begin, end;
  bool write;
  bool changes;  // while the kernel runs, or a part of it does
  std::string name;
  Region* region = nullptr;
};

// Something a block did with an atomic behind a fence: who does an atomic at the same place later, and then a fence, comes
// after all that the block did in phases before `bound`, and after what `thread` did.
struct Release {
  uintptr_t address;
  uint32_t block, bound, previous;  // previous: of those with the same hash, 0 for none
  int thread;
};
struct Releases {
  std::atomic_flag lock;
  uint32_t count, last[4096];
  Release all[1 << 20];
};
Releases* releases = Map<Releases>(1);
uint32_t& LastRelease(uintptr_t address) { return releases->last[address / 4 % 4096]; }

struct Seen {
  Release release;
  uint32_t phase;  // when, and by which thread; by others after the next barrier
  int thread;
};

constexpr size_t kGap = 64;  // bytes behind a shared array that nobody may touch
alignas(128) char shared_memory[1 << 20];
size_t shared_used, dynamic_size;
std::vector<Array> arrays;
Array* last_array;
std::vector<std::unique_ptr<Region>> regions;
std::vector<Range> expected;  // of the next launch
std::vector<Range> ranges;    // of this launch
size_t last_range;
std::vector<uintptr_t> acquired;  // places of atomics since the last fence of this block
std::vector<Seen> seen;

const char* Verb(bool write) { return write ? "writes" : "reads"; }
std::string Me() { return ThreadText(current, block_number); }

// Whether what another thread of this block did comes before what the running thread does now.
bool Ordered(Stamp stamp) {
  if (Phase(stamp) < phase || ThreadOf(stamp) == current) return true;
  return ThreadOf(stamp) / kWarp == current / kWarp && WarpPhase(stamp) < threads[current].warp_phase &&
         !(stamp & kSeveralWarps);
}

// The same of all that read since the last barrier.
bool AllOrdered(Stamp reader) {
  if (Phase(reader) < phase) return true;
  return Ordered(reader) && !(reader & kSeveralWarps) &&
         (!(reader & kSeveralThreads) || WarpPhase(reader) < threads[current].warp_phase);
}

// The stamp of readers with the running thread among them.
Stamp WithMe(Stamp reader) {
  if (Phase(reader) != phase) return now;
  if (ThreadOf(reader) == current && !(reader & kSeveralWarps) && !(reader & kSeveralThreads)) return now;
  Stamp flags = reader & (kSeveralThreads | kSeveralWarps);
  if (ThreadOf(reader) / kWarp != current / kWarp) return now | flags | kSeveralThreads | kSeveralWarps;
  if (!(flags & kSeveralWarps) && WarpPhase(reader) < threads[current].warp_phase) return now;
  return now | flags | (ThreadOf(reader) == current ? 0 : kSeveralThreads);
}

// Whether what another block did comes before what the running thread does now.
bool OrderedBlocks(uint32_t block, Stamp stamp) {
  for (const Seen& s : seen)
    if (s.release.block == block && (Phase(stamp) < s.release.bound || ThreadOf(stamp) == s.release.thread) &&
        (phase > s.phase || current == s.thread))
      return true;
  return false;
}

void Race(const char* kind, const std::string& where, uint32_t block, Stamp other, const char* theirs, bool write,
          uintptr_t code) {
  Fault(code, "race in %s memory, %s: %s %s what %s %s, and no barrier lies between", kind, where.c_str(), Me().c_str(),
        Verb(write), ThreadText(ThreadOf(other), block).c_str(), theirs);
}

// --- shared memory ---------------------------------------------------------------------------------------------------

std::string Where(const Array& array, const void* data) {
  char text[64];
  snprintf(text, sizeof text, "byte %td of %zu", static_cast<const char*>(data) - array.begin, array.bytes);
  return text;
}

[[gnu::noinline]] void SharedFault(const Array& array, const Cell& cell, const void* data, bool write, uintptr_t code) {
  Stamp writer = cell.writer;
  if (Phase(writer) == kPending)
    return Fault(code, "%s %s shared memory that a cp.async of thread %d has not been waited for, %s", Me().c_str(),
                 Verb(write), ThreadOf(writer), Where(array, data).c_str());
  if (!write && Phase(writer) < first_phase)
    return Fault(code, "%s reads shared memory that nobody wrote, %s", Me().c_str(), Where(array, data).c_str());
  if (Phase(writer) >= first_phase && !Ordered(writer))
    return Race("shared", Where(array, data), block_number, writer, "wrote", write, code);
  Race("shared", Where(array, data), block_number, cell.reader, "read", write, code);
}

[[gnu::noinline]] bool WriteConflicts(Cell& cell, Stamp flag) {
  Stamp writer = cell.writer;
  if (Phase(writer) >= phase && (Phase(writer) == kPending || !(Ordered(writer) || writer & flag))) return true;
  if (Phase(cell.reader) == phase && !AllOrdered(cell.reader)) return true;
  cell.writer = now | flag;
  return false;
}

[[gnu::noinline]] bool ReadConflicts(Cell& cell) {
  Stamp writer = cell.writer;
  if (Phase(writer) < first_phase || Phase(writer) == kPending || !Ordered(writer)) return true;
  cell.reader = WithMe(cell.reader);
  return false;
}

inline void TouchShared(Array& array, const void* data, size_t bytes, bool write, Stamp flag, uintptr_t code) {
  size_t offset = static_cast<const char*>(data) - array.begin;
  Cell *cell = &array.cells[offset >> array.shift], *last = &array.cells[(offset + bytes - 1) >> array.shift];
  for (; cell <= last; ++cell) {
    if (write) {
      if (WriteConflicts(*cell, flag)) return SharedFault(array, *cell, data, write, code);
      continue;
    }
    // As a rule it was written before the last barrier, and others read it: one more of several warps changes nothing, nor
    // does one more of this warp.
    bool ordered = Phase(cell->writer) - first_phase < phase - first_phase;
    Stamp reader = cell->reader;
    if (ordered && (reader >> 31 == (Stamp{phase} << 1 | 1) || ((reader ^ now) & ~Stamp{kWarp - 1}) == kSeveralThreads))
      continue;
    if (ordered && Phase(reader) != phase)
      cell->reader = now;
    else if (ReadConflicts(*cell))
      return SharedFault(array, *cell, data, write, code);
  }
}

// --- global memory ---------------------------------------------------------------------------------------------------

std::string Where(const Range& range, uintptr_t address) {
  char text[64];
  snprintf(text, sizeof text, "byte %td of %zu", ptrdiff_t(address - range.begin), size_t(range.end - range.begin));
  return text + (range.name.empty() ? "" : " of `" + range.name + "`");
}

void TouchGlobal(const Range& range, uintptr_t address, size_t bytes, bool write, Stamp flag, uintptr_t code) {
  Region& region = *range.region;
  const uint64_t launch = uint64_t{launch_number} << 32, me = launch | block_number, several = launch | kSeveralBlocks;
  GlobalCell* cell = &region.cells[(address - region.begin) >> region.shift];
  GlobalCell* last = &region.cells[(address + bytes - 1 - region.begin) >> region.shift];
  auto this_launch = [&](uint64_t block) { return block >> 32 == launch_number; };
  for (; cell <= last; ++cell) {
    uint64_t writing, reading;
    // What is said first and then looked at cannot be missed by both of two processes.
    if (write) {
      writing = cell->writing_block.load();
      if (writing != me) writing = cell->writing_block.exchange(me);
      reading = cell->reading_block.load();
    } else {
      reading = cell->reading_block.load();
      if (reading != me && reading != several)
        reading = cell->reading_block.exchange(this_launch(reading) ? several : me);
      writing = cell->writing_block.load();
    }
    Stamp writer = cell->writer;
    if (this_launch(writing) && !(writer & flag) && !(writing == me ? Ordered(writer) : OrderedBlocks(writing, writer)))
      return Race("global", Where(range, address), writing, writer, "wrote", write, code);
    if (!write) {
      cell->reader = reading == me ? WithMe(cell->reader) : now;
      continue;
    }
    Stamp reader = cell->reader;
    if (this_launch(reading) && !(reading == me ? AllOrdered(reader) : OrderedBlocks(reading, reader)))
      return Race("global", Where(range, address), reading == several ? block_number : reading, reader, "read", write, code);
    cell->writer = now | flag;
  }
}

[[gnu::noinline]] void OutOfBounds(const void* data, size_t bytes, bool write, uintptr_t code) {
  // The nearest place is what the kernel meant.
  auto address = reinterpret_cast<uintptr_t>(data);
  uintptr_t begin = 0, end = 0, best = ~uintptr_t{0};
  std::string name;
  const char* kind = nullptr;
  auto look = [&](uintptr_t b, uintptr_t e, const char* k, const std::string& n) {
    uintptr_t distance = address + bytes > e ? address + bytes - e : b - address;
    if (distance < best) best = distance, begin = b, end = e, kind = k, name = n;
  };
  for (const Array& array : arrays)
    if (array.known) {
      auto b = reinterpret_cast<uintptr_t>(array.begin);
      look(b, b + array.bytes, "shared", "");
    }
  for (const Range& range : ranges) {
    if (address >= range.begin && address + bytes <= range.end)
      return Fault(code, "%s writes what its kernel only reads, %s", Me().c_str(), Where(range, address).c_str());
    look(range.begin, range.end, "global", range.name.empty() ? "" : " of `" + range.name + "`");
  }
  if (!kind) return Fault(code, "%s %s memory that is not the GPU's", Me().c_str(), Verb(write));
  Fault(code, "%s %s %s memory out of bounds: bytes %td to %td of %zu%s", Me().c_str(), Verb(write), kind,
        ptrdiff_t(address - begin), ptrdiff_t(address - begin + bytes - 1), size_t(end - begin), name.c_str());
}

inline bool Inside(const Array& array, const char* at, size_t bytes) {
  return size_t(at - array.begin) < array.bytes && at + bytes <= array.begin + array.bytes;
}

// The checks of one access. flag: kAtomic, or nothing. code: where in the kernel it stands. Inlined where `bytes` and
// `write` are known.
[[gnu::always_inline]] inline void Check(const void* data, size_t bytes, bool write, Stamp flag, uintptr_t code) {
  auto* at = static_cast<const char*>(data);
  auto address = reinterpret_cast<uintptr_t>(data);
  if (bytes <= 16 && !(bytes & (bytes - 1)) && address & (bytes - 1))
    return Fault(code, "%s %s %zu bytes at a misaligned address, %zu behind a multiple of %zu", Me().c_str(), Verb(write),
                 bytes, size_t(address & (bytes - 1)), bytes);
  if (size_t(at - shared_memory) < sizeof shared_memory) {
    if (last_array && Inside(*last_array, at, bytes)) return TouchShared(*last_array, data, bytes, write, flag, code);
    for (Array& array : arrays)
      if (array.known && Inside(array, at, bytes)) {
        last_array = &array;
        return TouchShared(array, data, bytes, write, flag, code);
      }
    return OutOfBounds(data, bytes, write, code);
  }
  if (address - stack < kStack || address - reinterpret_cast<uintptr_t>(&place) < sizeof place) return;
  for (size_t i = 0, n = ranges.size(), r = last_range; i < n; ++i, r = r + 1 == n ? 0 : r + 1) {
    const Range& range = ranges[r];
    if (address < range.begin || address + bytes > range.end || (write && !range.write)) continue;
    last_range = r;
    if (range.changes) TouchGlobal(range, address, bytes, write, flag, code);
    return;
  }
  OutOfBounds(data, bytes, write, code);
}

}  // namespace

void BeginLaunch(size_t dynamic_bytes, const int* granules, void** arguments) {
  shared_used = 0, dynamic_size = dynamic_bytes;
  arrays.clear();
  last_array = nullptr;
  releases->lock.clear();
  if (!checks) return;
  releases->count = 0;
  memset(releases->last, 0, sizeof releases->last);
  ranges = std::move(expected);
  expected.clear();
  if (ranges.empty())
    for (const auto& region : regions) ranges.push_back({region->begin, region->end, true, true, "", nullptr});
  last_range = 0;
  for (Range& range : ranges) {
    for (const Range& other : ranges)
      range.changes |= other.write && other.begin < range.end && range.begin < other.end;
    for (const auto& region : regions)
      if (region->begin <= range.begin && range.end <= region->end) range.region = region.get();
    range.changes &= range.region != nullptr;
  }
  for (const auto& region : regions) {
    int shift = 2;
    for (int i = 0; granules[i] >= 0; ++i) {
      auto address = *static_cast<uintptr_t*>(arguments[i]);
      if (granules[i] && granules[i] < 4 && region->begin <= address && address < region->end)
        shift = std::min(shift, granules[i] / 2);
    }
    if (region->cells && region->shift == shift) continue;
    size_t bytes = region->end - region->begin;
    if (region->cells) munmap(region->cells, ((bytes >> region->shift) + 1) * sizeof(GlobalCell));
    region->shift = shift;
    region->cells = Map<GlobalCell>((bytes >> shift) + 1);
  }
}

void BeginBlock() {
  for (Array& array : arrays) array.known = false;
  last_array = nullptr;
  acquired.clear(), seen.clear();
  first_phase = ++phase;
}

void SetStamp() {
  now = Stamp{phase} << 32 | Stamp{threads[current].warp_phase & kWarpPhases} << kWarpPhaseAt | Stamp(current);
}

void* SharedArray(int number, size_t bytes, int granule) {
  if (number >= int(arrays.size())) arrays.resize(number + 1), last_array = nullptr;
  Array& array = arrays[number];
  if (array.known) return array.begin;
  if (!array.begin) {
    array.begin = shared_memory + shared_used, array.bytes = bytes;
    shared_used += (bytes + 2 * kGap - 1) / kGap * kGap;
    array.shift = granule >= 4 ? 2 : granule / 2;
    if (checks) array.cells.reset(new Cell[(bytes >> array.shift) + 1]());
  }
  array.known = true;
  memset(array.begin, 0xff, bytes);
  return array.begin;
}

void* DynamicShared(int granule) { return SharedArray(0, dynamic_size, granule); }

[[gnu::noinline]] void Misaligned(const void* data, size_t alignment) {
  Fault(reinterpret_cast<uintptr_t>(__builtin_return_address(0)), "%s accesses a vector at a misaligned address, %zu behind "
        "a multiple of %zu", Me().c_str(), reinterpret_cast<uintptr_t>(data) % alignment, alignment);
}

void Row(const void* data, size_t bytes, int lane, uintptr_t code) {
  if (!checks) return;
  int performer = current;
  current = current / kWarp * kWarp + lane;
  SetStamp();
  if (size_t(static_cast<const char*>(data) - shared_memory) >= sizeof shared_memory)
    return Fault(code, "%s reads a row of a matrix that is not in shared memory", Me().c_str());
  Check(data, bytes, false, 0, code);
  current = performer;
  SetStamp();
}

void CheckCopy(const Copy& copy) {
  if (!checks) return;
  if (copy.valid < 0 || copy.valid > copy.bytes)
    return Fault(copy.code, "%s copies %d of %d bytes by cp.async", Me().c_str(), copy.valid, copy.bytes);
  auto at = static_cast<const char*>(copy.to) - shared_memory;
  if (at < 0 || at >= ptrdiff_t(sizeof shared_memory))
    return Fault(copy.code, "%s copies by cp.async to memory that is not shared", Me().c_str());
  if (reinterpret_cast<uintptr_t>(copy.from) % copy.bytes && copy.valid)
    return Fault(copy.code, "%s reads %d bytes at a misaligned address by cp.async", Me().c_str(), copy.bytes);
  if (copy.valid) Check(copy.from, copy.valid, false, 0, copy.code);
  Check(copy.to, copy.bytes, true, 0, copy.code);
  size_t offset = static_cast<char*>(copy.to) - last_array->begin;
  for (size_t i = offset >> last_array->shift; i <= (offset + copy.bytes - 1) >> last_array->shift; ++i)
    last_array->cells[i].writer = Stamp{kPending} << 32 | Stamp(current);
}

void Arrived(const Copy& copy) {
  if (!checks) return;
  Dropped(copy);
  if (copy.valid) Check(copy.from, copy.valid, false, 0, copy.code);
  Check(copy.to, copy.bytes, true, 0, copy.code);
}

void Dropped(const Copy& copy) {
  if (!checks) return;
  for (Array& array : arrays) {
    if (!Inside(array, static_cast<const char*>(copy.to), copy.bytes)) continue;
    size_t offset = static_cast<char*>(copy.to) - array.begin;
    for (size_t i = offset >> array.shift; i <= (offset + copy.bytes - 1) >> array.shift; ++i) array.cells[i].writer = 0;
  }
}

void BeginAtomic(const void* data, size_t bytes, uintptr_t code) {
  auto address = reinterpret_cast<uintptr_t>(data);
  if (checks) Check(data, bytes, true, kAtomic, code);
  while (releases->lock.test_and_set(std::memory_order_acquire)) {
  }
  if (!checks) return;
  Thread& thread = threads[current];
  uint32_t& last = LastRelease(address);
  if (last && std::find(acquired.begin(), acquired.end(), address) == acquired.end()) acquired.push_back(address);
  if (thread.fence && releases->count + 1 < std::size(releases->all)) {
    releases->all[++releases->count] = {address, block_number, thread.fence, last, current};
    last = releases->count;
  }
}

void EndAtomic() { releases->lock.clear(std::memory_order_release); }

void Fence() {
  if (!checks) return;
  threads[current].fence = phase;
  for (uintptr_t address : acquired)
    for (uint32_t i = LastRelease(address); i; i = releases->all[i].previous)
      if (releases->all[i].address == address) seen.push_back({releases->all[i], phase, current});
  acquired.clear();
}

}  // namespace emulator

#define ACCESS(bytes, name, write)              \
  void __tsan_##name##bytes(void* data) {       \
    emulator::Check(data, bytes, write, 0, reinterpret_cast<uintptr_t>(__builtin_return_address(0))); \
  }
#define ACCESSES(bytes)                                                                             \
  ACCESS(bytes, read, false) ACCESS(bytes, write, true) ACCESS(bytes, unaligned_read, false)        \
  ACCESS(bytes, unaligned_write, true) ACCESS(bytes, volatile_read, false) ACCESS(bytes, volatile_write, true)

extern "C" {
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
void __tsan_read_range(void* data, size_t bytes) {
  emulator::Check(data, bytes, false, 0, reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
}
void __tsan_write_range(void* data, size_t bytes) {
  emulator::Check(data, bytes, true, 0, reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
}
// What clang makes of copies and fills.
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  auto code = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  emulator::Check(from, bytes, false, 0, code), emulator::Check(to, bytes, true, 0, code);
  return memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  auto code = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  emulator::Check(from, bytes, false, 0, code), emulator::Check(to, bytes, true, 0, code);
  return memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  emulator::Check(to, bytes, true, 0, reinterpret_cast<uintptr_t>(__builtin_return_address(0)));
  return memset(to, value, bytes);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// Memory that kernels may use from now on, and no longer; processes share it.
void emulator_register(uintptr_t data, size_t bytes) {
  emulator::regions.emplace_back(new emulator::Region{data, data + bytes});
}
void emulator_release(uintptr_t data) {
  auto& regions = emulator::regions;
  for (size_t i = 0; i < regions.size(); ++i) {
    if (regions[i]->begin != data) continue;
    auto bytes = regions[i]->end - regions[i]->begin;
    if (regions[i]->cells) munmap(regions[i]->cells, ((bytes >> regions[i]->shift) + 1) * sizeof(emulator::GlobalCell));
    regions.erase(regions.begin() + i--);
  }
}
// A tensor that the next launch may touch; without any it may touch all there is.
void emulator_expect(uintptr_t data, size_t bytes, int write, const char* name) {
  emulator::expected.push_back({data, data + bytes, write != 0, false, name, nullptr});
}
}
