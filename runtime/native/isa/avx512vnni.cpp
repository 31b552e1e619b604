// AVX-512 with VNNI's byte products: x86 servers from 2019 on, Zen 4.
#define CG_ISA avx512vnni
#define CG_ISA_NAME "avx512vnni"
#define CG_VNNI 1
#include "kernels/kernels.h"
#if defined(CG_X86)
#include "simd/avx512.h"
//
#include "kernels/table.inl"
#endif
