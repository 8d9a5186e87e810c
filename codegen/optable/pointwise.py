"""Operations that work element by element."""

TABLE = """
torch,method (input) each inplace: abs absolute acos acosh arccos arccosh arcsin arcsinh
    arctan arctanh asin asinh atan atanh bitwise_not ceil cos cosh deg2rad
    digamma erf erfc erfinv exp exp2 expm1 fix floor frac i0 lgamma log log10 log1p log2
    neg negative rad2deg reciprocal relu sgn sigmoid sign sin sinc sinh square tan tanh
    trunc
torch,method (input) maybe:opaque each inplace: conj_physical
torch,method (input) each inplace stable: sqrt rsqrt
torch,method (input) each: angle clone
torch,method (input, *, decimals) each inplace: round
torch,method (input) mask inplace: logical_not
torch,method (input) mask: isfinite isinf isnan isneginf isposinf isreal signbit
torch (input) each inplace: selu
special (input) each: airy_ai bessel_j0 bessel_j1 bessel_y0 bessel_y1 digamma entr erf
    erfc erfcx erfinv exp2 expit expm1 gammaln i0 i0e i1 i1e log1p log_ndtr
    modified_bessel_i0 modified_bessel_i1 modified_bessel_k0 modified_bessel_k1 ndtr ndtri
    psi scaled_modified_bessel_k0 scaled_modified_bessel_k1 sinc spherical_bessel_j0
special (input, *, decimals) each: round
special (input, eps#) each: logit
special (input, other) each: xlog1py xlogy zeta
special (input, other) each: gammainc gammaincc
special (x, n) each: chebyshev_polynomial_t chebyshev_polynomial_u chebyshev_polynomial_v
    chebyshev_polynomial_w hermite_polynomial_h hermite_polynomial_he
    laguerre_polynomial_l legendre_polynomial_p shifted_chebyshev_polynomial_t
    shifted_chebyshev_polynomial_u shifted_chebyshev_polynomial_v
    shifted_chebyshev_polynomial_w
special (n, input) each: polygamma
special (input, p) each: multigammaln

torch,method (input, other, *, alpha#) each inplace ops: add sub
torch,method (input, other, *, alpha#) each inplace ops=sub: subtract
torch (input, other, *, alpha#) each ops: rsub
torch,method (input, other, *, rounding_mode) each inplace stable=div: div
torch,method (input, other, *, rounding_mode) each inplace: divide
torch,method (input, other) each inplace: mul multiply
torch,method (input, other) each inplace stable=div: true_divide
torch,method (input, exponent) each inplace stable: pow
torch,method (input, exponent) each inplace: float_power
torch,method (input, other) each inplace: arctan2 atan2 bitwise_and bitwise_left_shift
    bitwise_or bitwise_right_shift bitwise_xor copysign floor_divide fmod gcd hypot igamma
    igammac lcm ldexp nextafter remainder xlogy
torch,method (input, other) each: fmax fmin logaddexp logaddexp2 maximum minimum
torch,method (input, values) each inplace: heaviside
torch,method (input, other) mask inplace: eq ge greater greater_equal gt le less
    less_equal logical_and logical_or logical_xor lt ne not_equal
torch,method (input, other, rtol#, atol#, equal_nan) mask decides: isclose
torch,method (input, tensor1, tensor2, *, value#) each inplace ops: addcdiv addcmul
torch,method (input, end, weight&) each inplace ops: lerp
torch,method (input, min&, max&) each inplace ops: clamp
torch,method (input, min&, max&) each inplace ops=clamp: clip
torch,method (input, min&) each inplace ops=clamp: clamp_min
torch,method (input, max&) each inplace ops=clamp: clamp_max
torch,method (input, nan#, posinf#, neginf#) each inplace ops picks: nan_to_num
torch,method (input, eps#) each inplace: logit
torch,method (input, mask, value) each inplace contiguous: masked_fill
torch (input, value) each: fill
torch (n, input) each: polygamma
method (input, n) each inplace: polygamma
torch,method (input, p) each inplace contiguous: mvlgamma
torch (condition, input~, other~) each ops picks several_unless=other: where
method (input, condition, other~) each picks: where
torch (input, alpha#) each inplace ops: celu
torch (input, threshold#, value#) each inplace ops: threshold
torch (real, imag) each: complex
torch (abs, angle) each: polar
torch,method (input) several: frexp
torch (input, scale, zero_point, quant_min, quant_max): fake_quantize_per_tensor_affine
torch (input, boundaries, *, out_int32, right) whole: bucketize
torch (sorted_sequence, input, *, out_int32, right, side, sorter) whole: searchsorted
torch (elements/element, test_elements/test_element, *, assume_unique, invert) whole: isin
"""
