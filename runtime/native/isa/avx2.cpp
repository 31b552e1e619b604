// AVX2 with FMA and F16C: x86 from 2013 on.
#define CG_ISA avx2
#define CG_ISA_NAME "avx2"
#include "kernels/kernels.h"
#if defined(CG_X86)
#include "simd/avx2_panels.h"
//
#include "kernels/table.inl"
#endif
