#include "dispatch.h"

#include <cstdint>
#include <map>
#include <mutex>

#include "self_test.h"

#if defined(CG_X86) && defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#elif defined(CG_X86)
#include <cpuid.h>
#elif defined(CG_ARM64) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(CG_ARM64) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(CG_ARM64) && defined(_WIN32)
#include <windows.h>
#endif

namespace cg {
namespace {

#if defined(CG_X86)

struct Cpuid {
  uint32_t eax, ebx, ecx, edx;
};

Cpuid cpuid(uint32_t leaf, uint32_t subleaf = 0) {
  Cpuid r{};
#if defined(_MSC_VER)
  int regs[4];
  __cpuid(regs, 0);
  if (leaf > static_cast<uint32_t>(regs[0])) return r;
  __cpuidex(regs, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {static_cast<uint32_t>(regs[0]), static_cast<uint32_t>(regs[1]), static_cast<uint32_t>(regs[2]),
       static_cast<uint32_t>(regs[3])};
#else
  if (!__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx)) return {};
#endif
  return r;
}

// Which registers the operating system saves (XCR0); only to be asked if it says so (OSXSAVE).
uint64_t saved_registers() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t eax, edx;
  asm volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
  return static_cast<uint64_t>(edx) << 32 | eax;
#endif
}

constexpr bool has(uint32_t word, uint32_t bits) { return (word & bits) == bits; }

struct X86 {
  bool avx2 = false;
  bool avxvnni = false;
  bool avx512vnni = false;

  X86() {
    constexpr uint32_t fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    if (!has(cpuid(1).ecx, fma | osxsave | avx | f16c)) return;
    const uint64_t saved = saved_registers();
    const Cpuid extended = cpuid(7);
    constexpr uint32_t avx2_bit = 1u << 5;
    avx2 = (saved & 0x6) == 0x6 && has(extended.ebx, avx2_bit);
    // Leaf 7 says in eax how many more parts it has.
    constexpr uint32_t avxvnni_bit = 1u << 4;
    avxvnni = avx2 && extended.eax >= 1 && has(cpuid(7, 1).eax, avxvnni_bit);
    constexpr uint32_t f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31, vnni = 1u << 11;
    avx512vnni =
        avx2 && (saved & 0xe6) == 0xe6 && has(extended.ebx, f | dq | bw | vl) && has(extended.ecx, vnni);
  }
};

#elif defined(CG_ARM64)

bool has_dot_product() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & (1ul << 20)) != 0;  // HWCAP_ASIMDDP
#elif defined(__APPLE__)
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &value, &size, nullptr, 0) == 0 && value != 0;
#elif defined(_WIN32)
  return IsProcessorFeaturePresent(43) != 0;  // PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE
#else
  return false;
#endif
}

#endif

std::vector<Isa> detect() {
  std::vector<Isa> isas{{&kernels_portable, true}};
#if defined(CG_X86)
  const X86 x86;
  isas.push_back({&kernels_avx2, x86.avx2});
#if defined(CG_HAVE_AVXVNNI)
  isas.push_back({&kernels_avxvnni, x86.avxvnni});
#endif
  isas.push_back({&kernels_avx512vnni, x86.avx512vnni});
#elif defined(CG_ARM64)
  isas.push_back({&kernels_neon, true});
  isas.push_back({&kernels_neon_dotprod, has_dot_product()});
#endif
  return isas;
}

}  // namespace

const std::vector<Isa>& compiled_isas() {
  static const std::vector<Isa> isas = detect();
  return isas;
}

const char* failure_of(const Kernels& kernels) {
  static std::mutex mutex;
  static std::map<const Kernels*, const char*> known;
  if (&kernels == &kernels_portable) return nullptr;
  std::lock_guard<std::mutex> lock(mutex);
  const auto place = known.find(&kernels);
  if (place != known.end()) return place->second;
  return known[&kernels] = self_test(kernels);
}

Choice choose(const std::vector<Isa>& isas) {
  Choice choice{&kernels_portable, {}};
  for (auto isa = isas.rbegin(); isa != isas.rend(); ++isa) {
    if (!isa->supported) continue;
    if (failure_of(*isa->kernels) == nullptr) {
      choice.kernels = isa->kernels;
      break;
    }
    choice.refused.push_back(isa->kernels);
  }
  return choice;
}

const Choice& best_choice() {
  static const Choice choice = choose(compiled_isas());
  return choice;
}

const Kernels* find_kernels(std::string_view name) {
  for (const Isa& isa : compiled_isas()) {
    if (isa.supported && name == isa.kernels->isa && failure_of(*isa.kernels) == nullptr) return isa.kernels;
  }
  return nullptr;
}

}  // namespace cg
