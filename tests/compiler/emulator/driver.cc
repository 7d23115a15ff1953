// A CUDA driver and runtime library for machines without a GPU: device memory is host memory, and a launch runs kernels
// that runtime/emulator compiled. Only what netc and TVM's CUDA runtime call is here; the rest fails by name.
//
// EMULATED_ARCH, EMULATED_MEMORY (bytes), EMULATED_DRIVER (13000 for CUDA 13.0) say what machine this is, EMULATED_KERNELS
// where the kernels are, EMULATED_ARGUMENTS how many arguments each takes ("kernel0=5,kernel1=3").
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace {

constexpr int kInvalidValue = 1, kOutOfMemory = 2, kInvalidImage = 200, kNotFound = 500, kNotSupported = 801;
constexpr int kCaptureUnsupported = 900, kCaptureInvalidated = 901;

size_t Number(const char* name, size_t otherwise) {
  const char* text = getenv(name);
  return text ? strtoull(text, nullptr, 10) : otherwise;
}

using Run = int (*)(const unsigned*, const unsigned*, size_t, void**);

struct Module {
  void* library;
  std::string counts;
};

struct Function {
  Run run;
  int arguments;
};

struct Launch {
  Function* function;
  unsigned grid[3], block[3];
  size_t shared_bytes;
  std::vector<uint64_t> values;  // all arguments are of 8 bytes at most

  int operator()() {
    std::vector<void*> at;
    for (uint64_t& value : values) at.push_back(&value);
    return function->run(grid, block, shared_bytes, at.data());
  }
};

using Graph = std::vector<Launch>;

// A stream of a program's own; what this library calls one and the other (libcuda, libcudart) is the same memory.
struct Stream {
  bool capturing, invalid;
  Graph graph;
};

struct LaunchConfig {  // CUlaunchConfig
  unsigned grid[3], block[3], shared_bytes;
  void *stream, *attributes;
  unsigned attribute_count;
};

size_t used;
std::map<void*, size_t> sizes;
Stream* capturing;

// What may not happen while a stream is captured spoils the capture.
bool Spoils() {
  if (capturing) capturing->invalid = true;
  return capturing;
}

}  // namespace

extern "C" {

char emulated_calls[1 << 16];  // names of the calls about streams and graphs so far, with blanks
char emulated_failing[64];     // the name of a call that fails from now on

int Called(const char* name) {
  if (strlen(emulated_calls) + strlen(name) + 2 < sizeof emulated_calls) strcat(strcat(emulated_calls, name), " ");
  return strcmp(emulated_failing, name) ? 0 : kNotSupported;
}

int cuInit(unsigned) { return 0; }
int cuDriverGetVersion(int* version) { return *version = Number("EMULATED_DRIVER", 13000), 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int index) { return *device = index, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
  int arch = Number("EMULATED_ARCH", 80);
  *value = attribute == 75 ? arch / 10 : attribute == 76 ? arch % 10 : 0;
  return 0;
}
int cuDeviceGetName(char* name, int size, int) { return snprintf(name, size, "emulated"), 0; }
int cuGetErrorName(int error, const char** name) {
  *name = error == kInvalidImage ? "CUDA_ERROR_INVALID_IMAGE" : error == 209 ? "CUDA_ERROR_NO_BINARY_FOR_GPU" : "CUDA_ERROR";
  return 0;
}
int cuGetErrorString(int error, const char** text) { return cuGetErrorName(error, text); }

int cuModuleLoadData(Module** module, const void* image) {
  const auto* elf = static_cast<const unsigned char*>(image);
  uint16_t machine;
  memcpy(&machine, elf + 18, sizeof machine);
  constexpr uint16_t kElfMachineCuda = 190;
  if (memcmp(elf, "\177ELF", 4) || machine != kElfMachineCuda) return kInvalidImage;
  if (int error = Number("EMULATED_IMAGE", 0)) return error;
  // An image of gpu.py's names what it stands for: the library, and how many arguments its kernels take.
  const char* named = !memcmp(elf + 64, "NETC", 4) ? reinterpret_cast<const char*>(elf) + 68 : nullptr;
  const char* counts = named ? named + strlen(named) + 1 : getenv("EMULATED_ARGUMENTS");
  void* library = dlopen(named ? named : getenv("EMULATED_KERNELS"), RTLD_NOW);
  return *module = new Module{library, counts ? counts : ""}, library ? 0 : kNotFound;
}
int cuModuleUnload(void*) { return 0; }
int cuModuleGetFunction(Function** function, Module* module, const char* name) {
  void* run = dlsym(module->library, (std::string("emulate_") + name).c_str());
  const char* count = strstr(module->counts.c_str(), (std::string(name) + "=").c_str());
  *function = new Function{reinterpret_cast<Run>(run), count ? atoi(strchr(count, '=') + 1) : 0};
  return run ? 0 : kNotFound;
}
int cuFuncSetAttribute(void*, int, int) { return 0; }
int cuLaunchKernelEx(const LaunchConfig* config, Function* function, void** arguments, void**) {
  for (int i = 0; i < 3; ++i)
    if (!config->grid[i] || !config->block[i] || config->block[i] > 1024) return kInvalidValue;
  auto* stream = static_cast<Stream*>(config->stream);
  if (!stream || !stream->capturing) return function->run(config->grid, config->block, config->shared_bytes, arguments);
  Launch launch{function, {}, {}, config->shared_bytes, {}};
  memcpy(launch.grid, config->grid, sizeof launch.grid);
  memcpy(launch.block, config->block, sizeof launch.block);
  for (int i = 0; i < function->arguments; ++i) launch.values.push_back(*static_cast<uint64_t*>(arguments[i]));
  return stream->graph.push_back(launch), 0;
}

int cudaGetDeviceCount(int* count) { return *count = 1, 0; }
int cudaGetDevice(int* device) { return *device = 0, 0; }
int cudaSetDevice(int device) { return device ? kInvalidValue : 0; }
int cudaMemGetInfo(size_t* available, size_t* total) {
  *total = Number("EMULATED_MEMORY", size_t{1} << 34);
  return *available = *total > used ? *total - used : 0, 0;
}
int cudaMalloc(void** data, size_t size) {
  size_t available, total;
  cudaMemGetInfo(&available, &total);
  if (Spoils()) return kCaptureUnsupported;
  if (size > available) return kOutOfMemory;
  int status = posix_memalign(data, 256, size + 1);
  return used += sizes[*data] = size, status;
}
int cudaFree(void* data) {
  used -= sizes[data];
  return free(data), 0;
}
size_t emulated_copied[4];  // bytes copied so far, by kind: 1 up, 2 down, 3 across
int cudaMemcpy(void* to, const void* from, size_t size, int kind) {
  return Spoils() ? kCaptureUnsupported : (emulated_copied[kind] += size, memcpy(to, from, size), 0);
}
int cudaMemset(void* to, int value, size_t size) { return memset(to, value, size), 0; }
int cudaStreamSynchronize(void*) { return Spoils() ? kCaptureUnsupported : 0; }
int cudaGetLastError() { return 0; }
int cudaPeekAtLastError() { return 0; }
const char* cudaGetErrorName(int error) { return error == kOutOfMemory ? "out of memory" : "emulated error"; }
const char* cudaGetErrorString(int error) { return cudaGetErrorName(error); }

int cudaStreamCreateWithFlags(Stream** stream, unsigned) {
  int status = Called("StreamCreateWithFlags");
  return *stream = status ? nullptr : new Stream{}, status;
}
int cudaStreamDestroy(Stream* stream) {
  delete stream;
  return Called("StreamDestroy");
}
int cudaStreamBeginCapture(Stream* stream, int) {
  if (int status = Called("StreamBeginCapture")) return status;
  if (!stream) return kCaptureUnsupported;
  return (capturing = stream)->capturing = true, 0;
}
int cudaStreamEndCapture(Stream* stream, Graph** graph) {
  int status = Called("StreamEndCapture");
  if (!status && stream->invalid) status = kCaptureInvalidated;
  capturing = nullptr;
  stream->capturing = false;
  return *graph = status ? nullptr : new Graph(stream->graph), status;
}
int cudaGraphInstantiate(Graph** made, Graph* graph, unsigned long long) {
  int status = Called("GraphInstantiate");
  return *made = status ? nullptr : new Graph(*graph), status;
}
int cudaGraphDestroy(Graph* graph) {
  delete graph;
  return Called("GraphDestroy");
}
int cudaGraphExecDestroy(Graph* graph) {
  delete graph;
  return Called("GraphExecDestroy");
}
int cudaGraphLaunch(Graph* graph, void*) {
  int status = Called("GraphLaunch");
  for (size_t i = 0; !status && i < graph->size(); ++i) status = (*graph)[i]();
  return status;
}

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
MISSING(cudaMallocHost)
MISSING(cudaMemcpyAsync)
MISSING(cudaMemcpyPeerAsync)
MISSING(cudaStreamCreate)
MISSING(cudaStreamWaitEvent)
}
