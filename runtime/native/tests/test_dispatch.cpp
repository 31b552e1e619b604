// Which instruction sets there are. Arguments are the names of those that must be usable here, and no others.

#include "check.h"

int main(int argc, char** argv) {
  const std::vector<cg::Isa>& isas = cg::compiled_isas();
  const cg::Kernels& best = *cg::best_choice().kernels;
  CHECK(isas[0].kernels == &cg::kernels_portable && isas[0].supported, "portable comes first");
  CHECK(cg::find_kernels("portable") == &cg::kernels_portable, "portable");
  CHECK(cg::find_kernels("") == nullptr && cg::find_kernels("sse9") == nullptr, "unknown names");
  CHECK(cg::find_kernels(best.isa) == &best, "%s", best.isa);
  for (const cg::Isa& isa : isas) {
    std::printf("%s: %s\n", isa.kernels->isa, isa.supported ? "usable" : "not supported");
    CHECK(cg::find_kernels(isa.kernels->isa) == (isa.supported ? isa.kernels : nullptr), "%s",
          isa.kernels->isa);
    if (argc == 1) continue;
    bool expected = false;
    for (int i = 1; i < argc; i++) expected = expected || std::strcmp(argv[i], isa.kernels->isa) == 0;
    CHECK(isa.supported == expected, "%s", isa.kernels->isa);
  }
  for (int i = 1; i < argc; i++) CHECK(cg::find_kernels(argv[i]) != nullptr, "%s is not here", argv[i]);
  return test::report();
}
