// Whether kernels compute what the portable ones do: about a millisecond of small, odd shapes that go through
// every kernel. It guards against a compiler, an emulator or a processor that gets an instruction wrong.
#pragma once

#include "kernels/kernels.h"

namespace cg {

// The first operation that gives something else, in words, or null when all agree.
const char* self_test(const Kernels& kernels);

}  // namespace cg
