// The one transcendental function that vectors need.

namespace cg {
namespace {

// e^x to about 1e-7 relative. Source: Cephes expf. Below -87.3 it stays at 1.2e-38; NaN stays NaN.
CG_INLINE F exponential(F x) {
  x = min(set1(88.3f), max(set1(-87.3f), x));
  const F magic = set1(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const F biased = fma(x, set1(1.44269504088896341f), magic);
  const F n = sub(biased, magic);
  F r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, mul(r, r), add(r, set1(1.0f)));
  return mul(p, exp2_of_biased(biased));
}

}  // namespace
}  // namespace cg
