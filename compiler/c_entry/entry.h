/* What stands between a C caller and the compiled code of a net: the few symbols the code calls, its calling convention,
 * and the file of weights. No allocation; the structures are those of tvm/ffi/c_api.h and dlpack.h.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define ALIGNMENT 64

enum { OK, BAD_ARGUMENT, NO_FILE, WRONG_FILE, DAMAGED, FAILED };

typedef struct {
  void *data;
  int32_t device, index, ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t *shape, *strides;
  uint64_t offset;
} Tensor;

typedef struct {
  int32_t type;
  uint32_t padding;
  union {
    int64_t number;
    void *pointer;
  } of;
} Value;

/* The code checks its arguments, and says here what is wrong with them; its result says that something is. */
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  (void)kind, (void)parts, (void)count;
}

static inline unsigned char *aligned(const void *memory) {
  return (unsigned char *)(((uintptr_t)memory + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1));
}

static inline int64_t larger(int64_t one, int64_t other) { return one > other ? one : other; }

static inline int64_t padded(int64_t bytes) { return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

/* Where kernels read an input or write a result: at its own place where that is aligned, else in the workspace. */
static inline void *placed(const void *memory, int64_t bytes, unsigned char **spare) {
  void *place = (void *)memory;
  if ((uintptr_t)memory % ALIGNMENT) {
    place = *spare;
    *spare += padded(bytes);
  }
  return place;
}

static inline Tensor tensor(void *data, uint8_t code, uint8_t bits, int32_t ndim, int64_t *shape) {
  Tensor made = {data, 1, 0, ndim, code, bits, 1, shape, NULL, 0};
  return made;
}

static inline Value pointing(Tensor *to) {
  Value made = {7, 0, {0}};
  made.of.pointer = to;
  return made;
}

static inline Value number(int64_t value) {
  Value made = {1, 0, {value}};
  return made;
}

/* A file of weights: "netcw001", the net's identity, the bytes of weights, their two sums, and from byte 64 the weights. */
typedef struct {
  char magic[8];
  unsigned char identity[16];
  uint64_t bytes, first, second, unused[2];
} Head;

static int fill(int file, void *to, size_t bytes) {
  unsigned char *at = to;
  while (bytes) {
    ssize_t got = read(file, at, bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return DAMAGED;
    at += got;
    bytes -= (size_t)got;
  }
  return OK;
}

static int load(const char *path, const unsigned char *identity, size_t bytes, unsigned char *to) {
  Head head;
  uint64_t word, first = 0, second = 0;
  int file = open(path, O_RDONLY | O_CLOEXEC), result;
  if (file < 0) return NO_FILE;
  result = fill(file, &head, sizeof head) || memcmp(head.magic, "netcw001", 8) ? WRONG_FILE : OK;
  if (!result && (memcmp(head.identity, identity, 16) || head.bytes != bytes)) result = WRONG_FILE;
  if (!result) result = fill(file, to, bytes);
  close(file);
  if (result) return result;
  for (size_t i = 0; i < bytes; i += sizeof word) {
    memcpy(&word, to + i, sizeof word);
    first += word;
    second += first;
  }
  return first == head.first && second == head.second ? OK : DAMAGED;
}
