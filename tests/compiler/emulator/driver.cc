// A CUDA driver and runtime library for machines without a GPU: device memory is host memory, and a launch runs kernels
// that runtime/emulator compiled. Only what TVM's CUDA runtime calls is here; the rest fails by name.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kInvalidValue = 1, kOutOfMemory = 2, kNotSupported = 801, kInvalidImage = 200, kNotFound = 500;

void* Kernels() {
  static void* library = dlopen(getenv("EMULATED_KERNELS"), RTLD_NOW);
  return library;
}

size_t Memory() {
  const char* limit = getenv("EMULATED_MEMORY");
  return limit ? strtoull(limit, nullptr, 10) : size_t{1} << 34;
}

int Arch() { return atoi(getenv("EMULATED_ARCH")); }

struct LaunchConfig {  // CUlaunchConfig
  unsigned grid[3], block[3], shared_bytes;
  void *stream, *attributes;
  unsigned attribute_count;
};

using Launch = int (*)(const unsigned*, const unsigned*, size_t, void**);

}  // namespace

extern "C" {

int cuInit(unsigned) { return 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int index) { return *device = index, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? Arch() / 10 : attribute == 76 ? Arch() % 10 : 0;
  return 0;
}
int cuDeviceGetName(char* name, int size, int) { return snprintf(name, size, "emulated"), 0; }
int cuGetErrorName(int, const char** name) { return *name = "emulated error", 0; }
int cuGetErrorString(int, const char** text) { return *text = "emulated error", 0; }

int cuModuleLoadData(const void** module, const void* image) {
  const auto* elf = static_cast<const unsigned char*>(image);
  uint16_t machine;
  memcpy(&machine, elf + 18, sizeof machine);
  constexpr uint16_t kElfMachineCuda = 190;
  if (memcmp(elf, "\177ELF", 4) || machine != kElfMachineCuda) return kInvalidImage;
  return *module = image, 0;
}
int cuModuleUnload(void*) { return 0; }
int cuModuleGetFunction(void** function, void*, const char* name) {
  char symbol[256];
  snprintf(symbol, sizeof symbol, "emulate_%s", name);
  *function = dlsym(Kernels(), symbol);
  return *function ? 0 : kNotFound;
}
int cuFuncSetAttribute(void*, int, int) { return 0; }
int cuLaunchKernelEx(const LaunchConfig* config, void* function, void** arguments, void**) {
  for (int i = 0; i < 3; ++i)
    if (!config->grid[i] || !config->block[i] || config->block[i] > 1024) return kInvalidValue;
  return reinterpret_cast<Launch>(function)(config->grid, config->block, config->shared_bytes, arguments);
}

int cudaGetDeviceCount(int* count) { return *count = 1, 0; }
int cudaGetDevice(int* device) { return *device = 0, 0; }
int cudaSetDevice(int device) { return device ? kInvalidValue : 0; }
int cudaMemGetInfo(size_t* available, size_t* total) { return *available = *total = Memory(), 0; }
int cudaMalloc(void** data, size_t size) {
  return size > Memory() ? kOutOfMemory : posix_memalign(data, 256, size + 1);
}
int cudaFree(void* data) { return free(data), 0; }
size_t emulated_copied[4];  // bytes copied so far, by kind: 1 up, 2 down, 3 across
int cudaMemcpy(void* to, const void* from, size_t size, int kind) {
  return emulated_copied[kind] += size, memcpy(to, from, size), 0;
}
int cudaMemset(void* to, int value, size_t size) { return memset(to, value, size), 0; }
int cudaStreamSynchronize(void*) { return 0; }
int cudaGetLastError() { return 0; }
int cudaPeekAtLastError() { return 0; }
const char* cudaGetErrorName(int error) { return error == kOutOfMemory ? "out of memory" : "emulated error"; }
const char* cudaGetErrorString(int error) { return cudaGetErrorName(error); }

#define MISSING(name) \
  int name() { return fprintf(stderr, "the emulated driver has no " #name "\n"), kNotSupported; }
MISSING(cuTensorMapEncodeTiled)
MISSING(cudaDeviceGetAttribute)
MISSING(cudaEventCreate)
MISSING(cudaEventDestroy)
MISSING(cudaEventElapsedTime)
MISSING(cudaEventRecord)
MISSING(cudaEventSynchronize)
MISSING(cudaFreeHost)
MISSING(cudaGetDeviceProperties)
MISSING(cudaGraphDestroy)
MISSING(cudaGraphExecDestroy)
MISSING(cudaGraphInstantiate)
MISSING(cudaGraphLaunch)
MISSING(cudaMallocHost)
MISSING(cudaMemcpyAsync)
MISSING(cudaMemcpyPeerAsync)
MISSING(cudaStreamBeginCapture)
MISSING(cudaStreamCreate)
MISSING(cudaStreamCreateWithFlags)
MISSING(cudaStreamDestroy)
MISSING(cudaStreamEndCapture)
MISSING(cudaStreamWaitEvent)
}
