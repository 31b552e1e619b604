// The little that the native tests share: checks that count, exact buffers, random numbers, stored matrices.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "dispatch.h"
#include "kernels/kernels.h"

namespace test {

inline int failures = 0;

#define CHECK(condition, ...)                                     \
  do {                                                            \
    if (!(condition)) {                                           \
      test::failures++;                                           \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                   \
      std::printf("\n");                                          \
    }                                                             \
  } while (0)

inline int report() {
  std::printf(failures == 0 ? "ok\n" : "%d checks failed\n", failures);
  return failures == 0 ? 0 : 1;
}

// `size` bytes that begin `offset` past an aligned address and end where the allocation ends, so that the
// address sanitizer sees the first byte that is read or written too many.
class Exact {
 public:
  explicit Exact(int64_t size, int offset = 0)
      : memory_(new uint8_t[static_cast<size_t>(size + offset)]), offset_(offset) {
    std::memset(memory_.get(), 0, static_cast<size_t>(size + offset));
  }
  uint8_t* bytes() { return memory_.get() + offset_; }
  // Only for offset 0.
  float* floats() { return reinterpret_cast<float*>(memory_.get()); }

 private:
  std::unique_ptr<uint8_t[]> memory_;
  int offset_;
};

// xorshift64*: the same numbers everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435761u + 1) {}
  uint32_t bits() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return static_cast<uint32_t>((state_ * 2685821657736338717ull) >> 32);
  }
  // Uniform in [-1, 1).
  float number() { return static_cast<float>(static_cast<int32_t>(bits()) * 0x1p-31); }

 private:
  uint64_t state_;
};

inline const char* const kFormatNames[] = {"q4", "i8", "q4h", "bf16", "f16", "f32"};

inline float value_of_half(uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  const double value = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return static_cast<float>(half & 0x8000 ? -value : value);
}

// A random matrix of some format at some address, and its values.
struct Stored {
  Stored(cg::Format format, int64_t rows, int64_t cols, int offset, uint64_t seed)
      : data(cg::bytes_of(format, rows * cols), offset),
        scales(rows * cols / cg::kBlock * cg::scale_bytes(format), offset),
        values(static_cast<size_t>(rows * cols)) {
    Random random(seed);
    const int64_t blocks = rows * cols / cg::kBlock;
    if (cg::is_blocked(format)) {
      for (int64_t b = 0; b < blocks; b++) {
        const float scale = put_scale(format, b, random);
        for (int64_t i = 0; i < cg::kBlock; i++) put_integer(format, b, i, random.bits(), scale);
      }
    } else {
      for (int64_t i = 0; i < rows * cols; i++) put_float(format, i, random.number());
    }
    matrix = {data.bytes(), cg::is_blocked(format) ? scales.bytes() : nullptr, format, rows, cols};
  }

  // Of magnitude below 1.
  float put_scale(cg::Format format, int64_t block, Random& random) {
    float scale = random.number();
    if (format == cg::Format::q4h) {
      const auto half = static_cast<uint16_t>(random.bits() % 0x3c00 | (scale < 0 ? 0x8000 : 0));
      std::memcpy(scales.bytes() + 2 * block, &half, 2);
      scale = value_of_half(half);
    } else {
      std::memcpy(scales.bytes() + 4 * block, &scale, 4);
    }
    return scale;
  }

  void put_integer(cg::Format format, int64_t block, int64_t i, uint32_t bits, float scale) {
    int value;
    if (cg::elements_of(format) == cg::Format::q4) {
      uint8_t* byte = data.bytes() + block * 16 + i % 16;
      *byte = static_cast<uint8_t>(*byte | (bits & 15) << (i < 16 ? 0 : 4));
      value = static_cast<int>(bits & 15) - 8;
    } else {
      data.bytes()[block * 32 + i] = static_cast<uint8_t>(bits);
      value = static_cast<int8_t>(bits);
    }
    values[static_cast<size_t>(block * 32 + i)] = static_cast<float>(value) * scale;
  }

  // Numbers that every float format holds exactly: seven bits of mantissa.
  void put_float(cg::Format format, int64_t i, float number) {
    const float value = std::round(number * 64) / 64;
    values[static_cast<size_t>(i)] = value;
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    uint16_t half = static_cast<uint16_t>(bits >> 16);
    if (format == cg::Format::f16) {
      const uint32_t sign = bits >> 16 & 0x8000;
      half = static_cast<uint16_t>(value == 0 ? sign : sign | ((bits & 0x7fffffff) - 0x38000000) >> 13);
    }
    if (format == cg::Format::f32) {
      std::memcpy(data.bytes() + 4 * i, &value, 4);
    } else {
      std::memcpy(data.bytes() + 2 * i, &half, 2);
    }
  }

  Exact data, scales;
  std::vector<float> values;
  cg::Matrix matrix{};
};

template <class F>
void for_each_isa(F f) {
  for (const cg::Isa& isa : cg::compiled_isas()) {
    if (isa.supported) f(*isa.kernels);
  }
}

}  // namespace test
