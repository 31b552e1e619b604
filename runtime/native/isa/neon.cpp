// Every arm64 machine.
#define CG_ISA neon
#define CG_ISA_NAME "neon"
#include "kernels/kernels.h"
#if defined(CG_ARM64)
#include "simd/neon_panels.h"
//
#include "kernels/table.inl"
#endif
