// AVX2 with AVX-VNNI's byte products: Intel's client processors from Alder Lake (2021) on.
#define CG_ISA avxvnni
#define CG_ISA_NAME "avxvnni"
#define CG_VNNI 1
#define CG_AVXVNNI 1
#include "kernels/kernels.h"
#if defined(CG_X86) && defined(CG_HAVE_AVXVNNI)
#include "simd/avx2_panels.h"
//
#include "kernels/table.inl"
#endif
