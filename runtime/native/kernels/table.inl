// The body of every instruction set's file: all kernels in an unnamed namespace, and one exported table.
// The including file has chosen the vector type (simd/*.h) and defined CG_ISA and CG_ISA_NAME.

#include "kernels/exponential.inl"
#include "kernels/readers.inl"
//
#include "kernels/attention.inl"
#include "kernels/elementwise.inl"
#include "kernels/encode.inl"
#include "kernels/product_f32.inl"
#include "kernels/product_int8.inl"
#include "kernels/products.inl"

#define CG_JOIN_(a, b) a##b
#define CG_JOIN(a, b) CG_JOIN_(a, b)

namespace cg {

const Kernels CG_JOIN(kernels_, CG_ISA) = {
    CG_ISA_NAME,
    {products_of<F32Row<Format::q4>>(), products_of<F32Row<Format::i8>>(),
     products_of<F32Row<Format::bf16>>(), products_of<F32Row<Format::f16>>(),
     products_of<F32Row<Format::f32>>()},
    {products_of<Int8Row<Format::q4>>(), products_of<Int8Row<Format::i8>>()},
    quantize_token,
    embed,
    sum_of_squares,
    weigh,
    rope,
    geglu,
    attention,
    encode,
};

}  // namespace cg
