// Instructions of NVIDIA GPUs that CUDA C has no operator for, under C names that kernels call. Two bodies: inline PTX for
// CUDA's compilers, and for the emulator (runtime/emulator) the same on the host. cuda.py puts this text into kernels.cu.
//
// Fragments are arrays of the calling thread ("local"), aligned to 4 bytes; all 32 lanes of a warp make a call together.
// `lane` counts them, g = lane / 4, t = lane % 4 (PTX ISA, "Matrix Fragments for mma.m16n8k16" and its neighbours).
//
//   netc_mma_m16n8k16_f16(float d[4], half a[8], half b[4])                  d += a · b, sm_80
//   netc_mma_m16n8k16_bf16(float d[4], nv_bfloat16 a[8], nv_bfloat16 b[4])   sm_80
//   netc_mma_m16n8k8_f16(float d[4], half a[4], half b[2])                   sm_75
//   netc_mma_m16n8k8_tf32(float d[4], float a[4], float b[2])                sm_80; looks at the upper 19 bits only
//     d[i] is row g + 8 * (i / 2), column 2 * t + i % 2, in all of them.
//     m16n8k16: a[i] is row g + 8 * (i / 2 % 2), column 2 * t + i % 2 + 8 * (i / 4);
//               b[i] is row 2 * t + i % 2 + 8 * (i / 2), column g.
//     m16n8k8_f16: a[i] is row g + 8 * (i / 2), column 2 * t + i % 2; b[i] is row 2 * t + i, column g.
//     m16n8k8_tf32: a[i] is row g + 8 * (i % 2), column t + 4 * (i / 2); b[i] is row t + 4 * i, column g.
//   netc_ldmatrix_x1, _x2, _x4, and with _trans (void* d, const void* row)     sm_75
//     1, 2 or 4 matrices of 8 x 8 elements of 2 bytes from shared memory: lane 8 * m + r gives row r of matrix m, 16 bytes
//     at an address that is a multiple of 16. d: 2 elements of each matrix: row g, columns 2 * t and 2 * t + 1; with
//     _trans rows 2 * t and 2 * t + 1, column g. An x4 over a 16 x 16 tile (rows of lanes 0-15 at column 0, of 16-31 at
//     column 8) is the a of m16n8k16; an x2_trans over 16 x 8 of a row-major b is its b.
//   netc_cp_async_4, _8, _16 (void* shared, const void* global, int valid)   sm_80
//     starts a copy of 4, 8 or 16 bytes, both places aligned to as many; the last of them from `valid` on become zero, and
//     with valid = 0 `global` is not looked at.
//   netc_cp_async_commit()       what this thread started since its last commit is a group
//   netc_cp_async_wait(n)        until at most n (a constant, 0 to 7) groups of this thread are on their way; other threads
//                                see the data after a __syncthreads behind that
//   netc_cp_async_wait_all()     also what was never committed
//   netc_copy_16(void* to, const void* from)    16 bytes in one access, both places aligned to 16
//   float netc_tf32(float)                      rounded to tf32 (to nearest, ties away from zero)
//   bool netc_last_block(unsigned* counter, int blocks)
//     called by all threads of each of `blocks` blocks: whether this is the last of them to come; it sees what all others
//     wrote before. *counter, in global memory, must be 0, and is 0 again when the last has come.
#ifdef __CUDACC__

#define NETC_INSTRUCTION static __device__ __forceinline__

NETC_INSTRUCTION unsigned netc_shared_address(const void* data) {
  return static_cast<unsigned>(__cvta_generic_to_shared(data));
}

#define NETC_MMA_4_2(name, types)                                                                                  \
  NETC_INSTRUCTION void name(void* d, const void* a, const void* b) {                                              \
    float* r = static_cast<float*>(d);                                                                             \
    const unsigned *x = static_cast<const unsigned*>(a), *y = static_cast<const unsigned*>(b);                     \
    asm volatile("mma.sync.aligned." types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"      \
                 : "+f"(r[0]), "+f"(r[1]), "+f"(r[2]), "+f"(r[3])                                                  \
                 : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));                              \
  }
NETC_MMA_4_2(netc_mma_m16n8k16_f16, "m16n8k16.row.col.f32.f16.f16.f32")
NETC_MMA_4_2(netc_mma_m16n8k16_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
NETC_MMA_4_2(netc_mma_m16n8k8_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
NETC_INSTRUCTION void netc_mma_m16n8k8_f16(void* d, const void* a, const void* b) {
  float* r = static_cast<float*>(d);
  const unsigned *x = static_cast<const unsigned*>(a), *y = static_cast<const unsigned*>(b);
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
               : "+f"(r[0]), "+f"(r[1]), "+f"(r[2]), "+f"(r[3]) : "r"(x[0]), "r"(x[1]), "r"(y[0]));
}

#define NETC_LDMATRIX(suffix, kind)                                                                                \
  NETC_INSTRUCTION void netc_ldmatrix_x1##suffix(void* d, const void* row) {                                       \
    unsigned* r = static_cast<unsigned*>(d);                                                                       \
    asm volatile("ldmatrix.sync.aligned.m8n8.x1" kind ".shared.b16 {%0}, [%1];"                                    \
                 : "=r"(r[0]) : "r"(netc_shared_address(row)) : "memory");                                         \
  }                                                                                                                \
  NETC_INSTRUCTION void netc_ldmatrix_x2##suffix(void* d, const void* row) {                                       \
    unsigned* r = static_cast<unsigned*>(d);                                                                       \
    asm volatile("ldmatrix.sync.aligned.m8n8.x2" kind ".shared.b16 {%0, %1}, [%2];"                                \
                 : "=r"(r[0]), "=r"(r[1]) : "r"(netc_shared_address(row)) : "memory");                             \
  }                                                                                                                \
  NETC_INSTRUCTION void netc_ldmatrix_x4##suffix(void* d, const void* row) {                                       \
    unsigned* r = static_cast<unsigned*>(d);                                                                       \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" kind ".shared.b16 {%0, %1, %2, %3}, [%4];"                        \
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(netc_shared_address(row)) : "memory");     \
  }
NETC_LDMATRIX(, "")
NETC_LDMATRIX(_trans, ".trans")

#define NETC_CP_ASYNC(bytes, cache)                                                                                \
  NETC_INSTRUCTION void netc_cp_async_##bytes(void* shared, const void* global, int valid) {                       \
    asm volatile("cp.async." cache ".shared.global [%0], [%1], " #bytes ", %2;"                                    \
                 :: "r"(netc_shared_address(shared)), "l"(global), "r"(valid) : "memory");                         \
  }
NETC_CP_ASYNC(4, "ca")
NETC_CP_ASYNC(8, "ca")
NETC_CP_ASYNC(16, "cg")
NETC_INSTRUCTION void netc_cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
NETC_INSTRUCTION void netc_cp_async_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }
NETC_INSTRUCTION void netc_cp_async_wait(int groups) {
#define NETC_WAIT(n) case n: asm volatile("cp.async.wait_group " #n ";" ::: "memory"); break;
  switch (groups) {
    NETC_WAIT(0) NETC_WAIT(1) NETC_WAIT(2) NETC_WAIT(3) NETC_WAIT(4) NETC_WAIT(5) NETC_WAIT(6) NETC_WAIT(7)
  }
}

NETC_INSTRUCTION float netc_tf32(float value) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits);
}

#else  // the emulator

#define NETC_INSTRUCTION static EMULATOR_PLAIN __attribute__((noinline))
#define NETC_LINE int line = __builtin_LINE()  // of the call

struct NetcMma {
  float* d;
  const void *a, *b;
};
EMULATOR_PLAIN inline float NetcHalf(const void* data, int i) { return emulator::FromHalf(static_cast<const uint16_t*>(data)[i]); }
EMULATOR_PLAIN inline float NetcBfloat16(const void* data, int i) { return emulator::FromBfloat16(static_cast<const uint16_t*>(data)[i]); }
EMULATOR_PLAIN inline float NetcTf32(const void* data, int i) {
  unsigned bits;
  memcpy(&bits, static_cast<const float*>(data) + i, sizeof bits);
  bits &= 0xffffe000;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// d += a · b of a warp. Element i of a lane's a is at row g + 8 * (i / row_step % 2), column t * wide + i % wide +
// apart * (i / (2 * row_step)), and so on: `wide` neighbours lie in one register, k = 8 * halves.
template <float (*Read)(const void*, int), int kWide, int kDepth>
EMULATOR_PLAIN void NetcMultiply(void* const* lanes) {
  constexpr int kApart = 4 * kWide, kOfB = kDepth / 4;
  float a[16][kDepth], b[kDepth][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* mine = static_cast<const NetcMma*>(lanes[lane]);
    int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 2 * kOfB; ++i)
      a[g + 8 * (i / kWide % 2)][t * kWide + i % kWide + kApart * (i / (2 * kWide))] = Read(mine->a, i);
    for (int i = 0; i < kOfB; ++i) b[t * kWide + i % kWide + kApart * (i / kWide)][g] = Read(mine->b, i);
  }
  for (int row = 0; row < 16; ++row) {
    float sum[8] = {};
    for (int k = 0; k < kDepth; ++k)
      for (int column = 0; column < 8; ++column) sum[column] += a[row][k] * b[k][column];
    for (int column = 0; column < 8; ++column)
      static_cast<const NetcMma*>(lanes[row % 8 * 4 + column / 2])->d[row / 8 * 2 + column % 2] += sum[column];
  }
}

#define NETC_MMA(name, read, wide, depth)                                                                          \
  NETC_INSTRUCTION void name(void* d, const void* a, const void* b, NETC_LINE) {                                   \
    NetcMma mine{static_cast<float*>(d), a, b};                                                                    \
    emulator::Together(&mine, NetcMultiply<read, wide, depth>, line);                                              \
  }
NETC_MMA(netc_mma_m16n8k16_f16, NetcHalf, 2, 16)
NETC_MMA(netc_mma_m16n8k16_bf16, NetcBfloat16, 2, 16)
NETC_MMA(netc_mma_m16n8k8_f16, NetcHalf, 2, 8)
NETC_MMA(netc_mma_m16n8k8_tf32, NetcTf32, 1, 8)

struct NetcRow {
  uint16_t* d;
  const void* row;
  uintptr_t code;
};
template <int kMatrices, bool kTranspose>
EMULATOR_PLAIN void NetcLoadMatrix(void* const* lanes) {
  for (int m = 0; m < kMatrices; ++m) {
    uint16_t matrix[8][8];
    for (int r = 0; r < 8; ++r) {
      const auto* given = static_cast<const NetcRow*>(lanes[8 * m + r]);
      emulator::Row(given->row, 16, 8 * m + r, given->code);
      memcpy(matrix[r], given->row, 16);
    }
    for (int lane = 0; lane < 32; ++lane) {
      auto* d = static_cast<const NetcRow*>(lanes[lane])->d + 2 * m;
      int g = lane / 4, t = lane % 4;
      d[0] = kTranspose ? matrix[2 * t][g] : matrix[g][2 * t];
      d[1] = kTranspose ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
    }
  }
}

#define NETC_LDMATRIX(matrices, suffix, transpose)                                                                 \
  NETC_INSTRUCTION void netc_ldmatrix_x##matrices##suffix(void* d, const void* row, NETC_LINE) {                   \
    NetcRow mine{static_cast<uint16_t*>(d), row, EMULATOR_CODE};                                                   \
    emulator::Together(&mine, NetcLoadMatrix<matrices, transpose>, line);                                          \
  }
NETC_LDMATRIX(1, , false)
NETC_LDMATRIX(2, , false)
NETC_LDMATRIX(4, , false)
NETC_LDMATRIX(1, _trans, true)
NETC_LDMATRIX(2, _trans, true)
NETC_LDMATRIX(4, _trans, true)

#define NETC_CP_ASYNC(bytes)                                                                                       \
  NETC_INSTRUCTION void netc_cp_async_##bytes(void* shared, const void* global, int valid) {                       \
    emulator::CopyAsync(shared, global, bytes, valid, EMULATOR_CODE);                                              \
  }
NETC_CP_ASYNC(4)
NETC_CP_ASYNC(8)
NETC_CP_ASYNC(16)
NETC_INSTRUCTION void netc_cp_async_commit() { emulator::Commit(); }
NETC_INSTRUCTION void netc_cp_async_wait_all() { emulator::WaitCopies(-1); }
NETC_INSTRUCTION void netc_cp_async_wait(int groups) { emulator::WaitCopies(groups); }

NETC_INSTRUCTION float netc_tf32(float value) {
  unsigned bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7f800000) != 0x7f800000) bits += 0x1000;
  bits &= 0xffffe000;
  memcpy(&value, &bits, sizeof value);
  return value == value ? value : NAN;
}

#endif

static __device__ __forceinline__ void netc_copy_16(void* to, const void* from) {
  *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
}

static __device__ __forceinline__ bool netc_last_block(unsigned* counter, int blocks) {
  __shared__ bool netc_last[1];
  __syncthreads();
  if (threadIdx.x == 0 && threadIdx.y == 0 && threadIdx.z == 0) {
    unsigned last = static_cast<unsigned>(blocks - 1);
    __threadfence();
    netc_last[0] = atomicInc(counter, last) == last;
    __threadfence();
  }
  __syncthreads();
  return netc_last[0];
}
