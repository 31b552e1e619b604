// The body of every instruction set's file: all kernels in an unnamed namespace, and one exported table.
// The including file has chosen the vector type (simd/*.h) and defined CG_ISA and CG_ISA_NAME.

#include "kernels/exponential.inl"
#include "kernels/finish.inl"
#include "kernels/panel_order.h"
#include "kernels/quantize.inl"
#include "kernels/readers.inl"
//
#include "kernels/attention.inl"
#include "kernels/elementwise.inl"
#include "kernels/encode.inl"
#include "kernels/fit.inl"
#include "kernels/rows_f32.inl"
//
#if defined(CG_TILES)
#include "kernels/tiles_int8.inl"
#endif
#include "kernels/rows_int8.inl"
//
#include "kernels/panels_int8.inl"
//
#include "kernels/panels_f32.inl"

#define CG_JOIN_(a, b) a##b
#define CG_JOIN(a, b) CG_JOIN_(a, b)

namespace cg {

const Kernels CG_JOIN(kernels_, CG_ISA) = {
    CG_ISA_NAME,
    kPassRows,
    kFewTokensInt8,
    kFloatTokens,
    {{rows_f32<Format::q4>, panels_f32<Format::q4>},
     {rows_f32<Format::i8>, panels_f32<Format::i8>},
     {rows_f32<Format::q4h>, panels_f32<Format::q4h>},
     {rows_f32<Format::bf16>, panels_f32<Format::bf16>},
     {rows_f32<Format::f16>, panels_f32<Format::f16>},
     {rows_f32<Format::f32>, panels_f32<Format::f32>}},
    {{rows_int8<Format::q4>, panels_int8<Format::q4>},
     {rows_int8<Format::i8>, panels_int8<Format::i8>},
     {rows_int8<Format::q4h>, panels_int8<Format::q4h>}},
    f32_scratch_bytes,
    int8_scratch_bytes,
    spread_tokens,
    quantized_bytes,
    quantize_token,
    embed,
    sum_of_squares,
    weigh,
    rope,
    geglu,
    to_f16,
    attend,
    attention_floats,
    partial_floats,
    join,
    conclude,
    encode,
    fit,
};

}  // namespace cg
