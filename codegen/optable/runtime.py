"""The runtime's own functions: what rules put in the place of others."""

TABLE = """
ops (input, other, *, alpha) new each: add sub rsub
ops (input, tensor1, tensor2, *, value) new each: addcdiv addcmul
ops (input, end, weight) new each: lerp
ops (input, mat1, mat2, *, beta, alpha) new: addmm
ops (x) computed each: sqrt exp log1p expm1 cos sin tanh fabs
ops (x, base) computed each: log
ops (x) new each: rsqrt
ops (x, exponent) computed each: pow
ops (numerator, denominator) computed each: div quotient
ops (x, min, max) computed each: clamp
ops (x, p, dim, keepdim, dtype) new: norm
ops (x1, x2, dim, eps) new: cosine_similarity
ops (*values) one_of: maximum minimum
ops (input, fill_value) new each: full_like
ops (size, fill_value) new: full
ops (data) maybe:opaque: tensor
ops (input, dtype) new each: converted
ops (input, source) maybe:opaque of:1 each: copy
ops (input, index, value) new: setitem
ops (real, imag) computed: complex
ops (x) new: deepcopy
ops (input, distribution, *args) new random: random_like
ops (base, view, new) maybe:opaque: write_through
ops (bases, view, new) items: write_through_all
ops (x) setting: value
ops (x) number: number is_positive is_below_one tracked
ops (setting, off) number: is_used
ops () meta: scalar_dtype
"""
