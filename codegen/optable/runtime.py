"""The runtime's own functions: what rules put in the place of others."""

# `become_` is no function of the runtime: it stands for a write into a buffer until R4
# gives the buffer a new value.
TABLE = """
ops (input, other, *, alpha) new each: add sub rsub
ops (input, tensor1, tensor2, *, value) new each: addcdiv addcmul
ops (input, end, weight) new each: lerp
ops (input, mat1, mat2, *, beta, alpha) new: addmm
ops (input, mat, vec, *, beta, alpha) new: addmv
ops (input, vec1, vec2, *, beta, alpha) new: addr
ops (input, batch1, batch2, *, beta, alpha) new: addbmm baddbmm
ops (x) computed each: sqrt exp exp2 log1p log2 log10 expm1 cos sin tan tanh fabs acos
    asin atan cosh sinh acosh asinh atanh erf erfc lgamma degrees radians cbrt
ops (x, base) computed each: log
ops (x) new each: rsqrt
ops (x, y) computed each: atan2 copysign fmod
ops (*coordinates) computed: hypot
ops (items) computed: fsum
ops (input, alpha) new each: celu elu
ops (input, negative_slope) new each: leaky_relu
ops (input, min_val, max_val) new each: hardtanh
ops (input, threshold, value) new each: threshold
ops (input, lambd) new each: hardshrink softshrink
ops (input, beta, threshold) new each: softplus
ops (input, nan, posinf, neginf) new each picks: nan_to_num
ops (condition, input, other) new each picks: where
ops (input, target, reduction, delta) new: huber_loss
ops (input, pad, mode, value) maybe:opaque: pad
ops (input, p, dim, eps) new: normalize
ops (input, dim, index, src/value, *, reduce) new: scatter
ops (input, dim, index, source, *, alpha) new: index_add
ops (input, fill_value, wrap) new: fill_diagonal
ops (input, size, fill_value) new: new_full
ops (input, data) maybe:opaque of:1: new_tensor
ops (start, end, step) new own: arange
ops (start, end, steps) new own: linspace
ops (x, exponent) computed each: pow
ops (numerator, denominator) computed each: div quotient
ops (x, min, max) computed each: clamp
ops (x, p, dim, keepdim, dtype) new: norm
ops (x1, x2, dim, eps) new: cosine_similarity
ops (*values) one_of: maximum minimum
ops (input, fill_value) new each: full_like
ops (size, fill_value) new own: full
ops (data) maybe:opaque own: tensor
ops (input, dtype) new each own: converted
ops (input, source) maybe:opaque of:1 each: copy
ops (input, value) maybe:opaque of:1: laid_out
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
method (input!, src) same each private functional=ops.copy: become_
"""
