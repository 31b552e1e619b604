// Which instruction sets this build has kernels for, and which of them this machine runs.
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

// The best supported one.
const Kernels& best_kernels();

// A supported one by name, or null.
const Kernels* find_kernels(std::string_view name);

}  // namespace cg
