// Encoders: every instruction set gives the portable one's bytes, on ordinary and on hostile blocks, and
// reads and writes nothing outside its buffers. (The bytes themselves are compared with Jlama's in Python.)

#include "check.h"

namespace {

using cg::Format;

constexpr int64_t kBlocks = 5;

struct Encoded {
  explicit Encoded(Format target, int offset)
      : data(cg::bytes_of(target, kBlocks * cg::kBlock), offset), scales(kBlocks * 4, offset) {}
  test::Exact data, scales;
  cg::EncodeStats stats{};
};

void fill(test::Random& random, Format source, uint8_t* bytes, int kind) {
  for (int64_t i = 0; i < kBlocks * cg::kBlock; i++) {
    uint32_t bits = random.bits();  // kind 0: any pattern, NaN, infinity and subnormals included
    if (source != Format::f32) {
      if (kind == 1) bits = (bits & 0x83ff) | (source == Format::bf16 ? 0x3c00 : 0x3800);
      if (kind == 2) bits &= 0x8003;  // zeros and the smallest subnormals
      std::memcpy(bytes + 2 * i, &bits, 2);
      continue;
    }
    if (kind == 1) {
      const float value = std::round(random.number() * 8) / 8;  // few values: ties abound
      std::memcpy(&bits, &value, 4);
    }
    if (kind == 2) bits &= 0x80000007;
    std::memcpy(bytes + 4 * i, &bits, 4);
  }
}

void encode(const cg::Kernels& kernels, Format target, Format source, int kind, uint64_t seed) {
  const int offset = static_cast<int>(seed % 4);
  test::Random random(seed);
  test::Exact in(cg::bytes_of(source, kBlocks * cg::kBlock), offset);
  fill(random, source, in.bytes(), kind);
  Encoded expected(target, 0), got(target, offset);
  cg::kernels_portable.encode(target, source, in.bytes(), kBlocks, expected.data.bytes(),
                              expected.scales.bytes(), &expected.stats);
  kernels.encode(target, source, in.bytes(), kBlocks, got.data.bytes(), got.scales.bytes(), &got.stats);
  const auto size = static_cast<size_t>(cg::bytes_of(target, kBlocks * cg::kBlock));
  const bool same = std::memcmp(expected.data.bytes(), got.data.bytes(), size) == 0 &&
                    std::memcmp(expected.scales.bytes(), got.scales.bytes(), kBlocks * 4) == 0;
  CHECK(same && expected.stats.finite == got.stats.finite, "%s %s from %s kind %d seed %llu", kernels.isa,
        test::kFormatNames[static_cast<int>(target)], test::kFormatNames[static_cast<int>(source)], kind,
        (unsigned long long)seed);
}

}  // namespace

int main() {
  test::for_each_isa([](const cg::Kernels& kernels) {
    for (const Format target : {Format::q4, Format::i8}) {
      for (const Format source : {Format::bf16, Format::f16, Format::f32}) {
        for (int kind = 0; kind < 3; kind++) {
          for (uint64_t seed = 1; seed <= 200; seed++) encode(kernels, target, source, kind, seed);
        }
      }
    }
  });
  return test::report();
}
