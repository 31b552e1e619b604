#pragma once

#include <nanobind/nanobind.h>

namespace cg {

void bind_vocabulary(nanobind::module_& m);

}  // namespace cg
