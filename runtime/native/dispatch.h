// Which instruction sets this build has kernels for, which of them this machine runs, and runs correctly.
#pragma once

#include <string_view>
#include <vector>

#include "kernels/kernels.h"

namespace cg {

struct Isa {
  const Kernels* kernels;
  bool supported;
};

// In order of preference, worst first; "portable" is always there and always supported.
const std::vector<Isa>& compiled_isas();

// What kernels that this machine supports get wrong, or null. The self-test runs once per process and set.
const char* failure_of(const Kernels& kernels);

struct Choice {
  const Kernels* kernels;
  std::vector<const Kernels*> refused;  // better ones that failed their self-test, best first
};

// The best supported set that passes its self-test. No other than it and better ones are tested.
Choice choose(const std::vector<Isa>& isas);
// Of the compiled ones, once per process.
const Choice& best_choice();

// A supported set that passes its self-test by name, or null.
const Kernels* find_kernels(std::string_view name);

}  // namespace cg
