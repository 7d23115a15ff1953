// CUDA's vector types and its 16-bit floats, with the operators and functions that generated kernels use of them.
#pragma once
#include <math.h>

#include <cstdint>
#include <cstring>

// Without a check of each access. Such a function is not inlined into one with checks.
#define EMULATOR_PLAIN __attribute__((no_sanitize("thread")))
// Accesses count for the line that calls it.
#define EMULATOR_INLINE __attribute__((always_inline)) inline

using uint = unsigned;
using uchar = unsigned char;
using ushort = unsigned short;

#define EMULATOR_VECTOR_2(scalar, name, bytes)                 \
  struct __attribute__((aligned(bytes))) name { scalar x, y; }; \
  EMULATOR_INLINE name make_##name(scalar x, scalar y) { return {x, y}; }
#define EMULATOR_VECTOR_4(scalar, name, bytes)                       \
  struct __attribute__((aligned(bytes))) name { scalar x, y, z, w; }; \
  EMULATOR_INLINE name make_##name(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }
EMULATOR_VECTOR_2(float, float2, 8)
EMULATOR_VECTOR_4(float, float4, 16)
EMULATOR_VECTOR_2(double, double2, 16)
EMULATOR_VECTOR_2(signed char, char2, 2)
EMULATOR_VECTOR_4(signed char, char4, 4)
EMULATOR_VECTOR_2(uchar, uchar2, 2)
EMULATOR_VECTOR_4(uchar, uchar4, 4)
EMULATOR_VECTOR_2(short, short2, 4)
EMULATOR_VECTOR_4(short, short4, 8)
EMULATOR_VECTOR_2(ushort, ushort2, 4)
EMULATOR_VECTOR_4(ushort, ushort4, 8)
EMULATOR_VECTOR_2(int, int2, 8)
EMULATOR_VECTOR_4(int, int4, 16)
EMULATOR_VECTOR_2(uint, uint2, 8)
EMULATOR_VECTOR_4(uint, uint4, 16)
EMULATOR_VECTOR_2(int64_t, longlong2, 16)
EMULATOR_VECTOR_4(int64_t, longlong4, 16)

namespace emulator {

EMULATOR_PLAIN inline uint32_t Bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
EMULATOR_PLAIN inline float Real(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// IEEE 754 binary16: rounding to nearest, ties to even; as cvt.rn.f16.f32 does.
EMULATOR_PLAIN inline uint16_t ToHalf(float value) {
  uint32_t bits = Bits(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // from 65520 on, infinity
  if (magnitude < 0x38800000)                          // subnormal: one addition rounds it to multiples of 2^-24
    return sign | (Bits(Real(magnitude) + 0.5f) - Bits(0.5f));
  uint32_t odd = magnitude >> 13 & 1;
  return sign | (magnitude - (112u << 23) + 0xfff + odd) >> 13;
}
EMULATOR_PLAIN inline float FromHalf(uint16_t half) {
  uint32_t sign = uint32_t(half & 0x8000) << 16, magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) return Real(sign | 0x7f800000 | magnitude << 13);
  float value = magnitude < 0x400 ? magnitude * 0x1p-24f : Real((magnitude << 13) + (112u << 23));
  return sign ? -value : value;
}
EMULATOR_PLAIN inline uint16_t ToBfloat16(float value) {
  uint32_t bits = Bits(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
EMULATOR_PLAIN inline float FromBfloat16(uint16_t value) { return Real(uint32_t(value) << 16); }

}  // namespace emulator

// Arithmetic is that of float, rounded: for one operation the same as in the type itself.
#define EMULATOR_OPERATOR(name, op) \
  EMULATOR_INLINE name operator op(name a, name b) { return float(a) op float(b); } \
  EMULATOR_INLINE name& operator op##=(name& a, name b) { return a = a op b; }
#define EMULATOR_COMPARISON(name, op, word) \
  EMULATOR_INLINE bool operator op(name a, name b) { return float(a) op float(b); } \
  inline bool __h##word(name a, name b) { return a op b; }
#define EMULATOR_UNARY(name, function, expression) \
  inline name function(name value) { float x = value; return float(expression); }
#define EMULATOR_SMALL_FLOAT(name, pair, quad, To, From)                                                       \
  struct name {                                                                                                \
    uint16_t bits;                                                                                             \
    name() = default;                                                                                          \
    template <class T, class = decltype(float(T()))>                                                           \
    EMULATOR_INLINE name(T value) : bits(emulator::To(float(value))) {}                                        \
    EMULATOR_INLINE operator float() const { return emulator::From(bits); }                                    \
  };                                                                                                           \
  EMULATOR_VECTOR_2(name, pair, 4)                                                                             \
  EMULATOR_VECTOR_4(name, quad, 8)                                                                             \
  EMULATOR_OPERATOR(name, +) EMULATOR_OPERATOR(name, -) EMULATOR_OPERATOR(name, *) EMULATOR_OPERATOR(name, /)   \
  EMULATOR_COMPARISON(name, ==, eq) EMULATOR_COMPARISON(name, !=, ne) EMULATOR_COMPARISON(name, <, lt)          \
  EMULATOR_COMPARISON(name, >, gt) EMULATOR_COMPARISON(name, <=, le) EMULATOR_COMPARISON(name, >=, ge)          \
  EMULATOR_INLINE name operator-(name value) { value.bits ^= 0x8000; return value; }                                    \
  EMULATOR_INLINE name max(name a, name b) { return a > b ? a : b; }                                                    \
  EMULATOR_INLINE name min(name a, name b) { return a < b ? a : b; }                                                    \
  inline unsigned __pack_##pair(name x, name y) { return unsigned(y.bits) << 16 | x.bits; }                     \
  inline name __hfma(name a, name b, name c) { return float(fma(double(float(a)), float(b), double(float(c)))); } \
  inline name hpow(name a, name b) { return powf(a, b); }                                                      \
  EMULATOR_UNARY(name, __habs, fabsf(x)) EMULATOR_UNARY(name, hexp, expf(x))                                    \
  EMULATOR_UNARY(name, hexp2, exp2f(x)) EMULATOR_UNARY(name, hexp10, powf(10, x))                               \
  EMULATOR_UNARY(name, hlog, logf(x)) EMULATOR_UNARY(name, hlog2, log2f(x))                                     \
  EMULATOR_UNARY(name, hlog10, log10f(x)) EMULATOR_UNARY(name, hsqrt, sqrtf(x))                                 \
  EMULATOR_UNARY(name, hrsqrt, 1 / sqrtf(x)) EMULATOR_UNARY(name, hsin, sinf(x))                                \
  EMULATOR_UNARY(name, hcos, cosf(x)) EMULATOR_UNARY(name, htan, tanf(x))                                       \
  EMULATOR_UNARY(name, hatan, atanf(x)) EMULATOR_UNARY(name, htanh, tanhf(x))                                   \
  EMULATOR_UNARY(name, herf, erff(x)) EMULATOR_UNARY(name, hfloor, floorf(x))                                   \
  EMULATOR_UNARY(name, hceil, ceilf(x)) EMULATOR_UNARY(name, htrunc, truncf(x))                                 \
  EMULATOR_UNARY(name, hrint, rintf(x))
EMULATOR_SMALL_FLOAT(half, half2, half4, ToHalf, FromHalf)
EMULATOR_SMALL_FLOAT(nv_bfloat16, nv_bfloat162, nv_bfloat164, ToBfloat16, FromBfloat16)
using __half = half;
using __half2 = half2;
using __nv_bfloat16 = nv_bfloat16;
using __nv_bfloat162 = nv_bfloat162;
inline float __half2float(half value) { return value; }
inline half __float2half(float value) { return value; }
inline half __float2half_rn(float value) { return value; }
inline float __bfloat162float(nv_bfloat16 value) { return value; }
inline nv_bfloat16 __float2bfloat16(float value) { return value; }
inline nv_bfloat16 __float2bfloat16_rn(float value) { return value; }
inline unsigned __float_as_uint(float value) { return emulator::Bits(value); }
inline float __uint_as_float(unsigned bits) { return emulator::Real(bits); }
inline int __float_as_int(float value) { return int(emulator::Bits(value)); }
inline float __int_as_float(int bits) { return emulator::Real(unsigned(bits)); }
