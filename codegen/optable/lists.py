"""Operations on whole lists of tensors: torch._foreach_…"""

TABLE = """
torch (self) several inplace: _foreach_abs _foreach_acos _foreach_asin _foreach_atan
    _foreach_ceil _foreach_cos _foreach_cosh _foreach_erf _foreach_erfc _foreach_exp
    _foreach_expm1 _foreach_floor _foreach_frac _foreach_lgamma _foreach_log
    _foreach_log10 _foreach_log1p _foreach_log2 _foreach_neg _foreach_reciprocal
    _foreach_round _foreach_rsqrt _foreach_sigmoid _foreach_sign _foreach_sin
    _foreach_sinh _foreach_sqrt _foreach_tan _foreach_tanh _foreach_trunc
torch (self) several: _foreach_clone _foreach_max
torch (self, other/scalar/scalars/tensors~, *, alpha#) several inplace: _foreach_add
    _foreach_sub
torch (self, other/scalar/scalars/tensors~) several inplace: _foreach_clamp_max
    _foreach_clamp_min _foreach_div _foreach_maximum _foreach_minimum _foreach_mul
torch (self, exponent/scalar~) several inplace: _foreach_pow
torch (self, tensor1, tensor2, value/scalars/tensor~) several inplace: _foreach_addcdiv
    _foreach_addcmul
torch (self, tensors1, weight/weights/scalar~) several inplace: _foreach_lerp
torch (self, ord#, dtype) several: _foreach_norm _foreach_powsum
torch (self[]!, src, non_blocking) same: _foreach_copy_
torch (self[]!) same: _foreach_zero_
"""
