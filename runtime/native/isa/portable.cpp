// Plain C++: runs everywhere.
#define CG_ISA portable
#define CG_ISA_NAME "portable"
#include "kernels/kernels.h"
//
#include "simd/portable_panels.h"
//
#include "kernels/table.inl"
