// arm64 with the dot product extension (Armv8.2 option): Apple M1, Graviton 2 and later.
#define CG_ISA neon_dotprod
#define CG_ISA_NAME "neon-dotprod"
#define CG_DOTPROD 1
#include "kernels/kernels.h"
#if defined(CG_ARM64)
#include "simd/neon_panels.h"
//
#include "kernels/table.inl"
#endif
