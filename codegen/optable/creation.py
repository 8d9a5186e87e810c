"""Operations that make tensors out of sizes, numbers and chance."""

TABLE = """
torch (*size) new own: empty ones zeros
torch (*size) new own random: rand randn
method (input, *size) new: new_empty new_ones new_zeros
method (input, size, stride) new: new_empty_strided
torch (size, stride) new: empty_strided
torch (input) new each: zeros_like ones_like
torch (input) new: empty_like
torch (input) new random: rand_like randn_like
torch (size, fill_value#) new own ops: full
torch (input, fill_value#) new each ops: full_like
method (input, size, fill_value#) new ops: new_full
method (input, data#) new ops: new_tensor
torch (data#) new own ops: tensor
torch (s#) new own ops=tensor: scalar_tensor
torch (start#, end#, step#) new own ops: arange
torch (start#, end#, step#) new own: range
torch (start~, end~, steps) new own ops: linspace
torch (start~, end~, steps, base#) new own: logspace
torch (n, m) new own: eye
torch (row, col, offset) new whole: tril_indices triu_indices
torch (x, N, increasing) new: vander
torch (window_length, periodic) new: bartlett_window blackman_window hann_window
torch (window_length, periodic, alpha#, beta#) new: hamming_window
torch (window_length, periodic, beta#) new: kaiser_window
torch (indices, values, size, *, is_coalesced, check_invariants) maybe:sparse of:1:
    sparse_coo_tensor
torch (ndarray) view:opaque: from_numpy
nn (data) view:opaque cuts: Parameter

torch (n) new random whole: randperm
torch (low/high, high, size) new random whole: randint
torch (input, low/high, high) new random: randint_like
torch (mean~, std~, size) new random cuts: normal
torch,method (input, p~) new random decides: bernoulli
torch,method (input, num_samples, replacement) new random: multinomial
torch (input) new random: poisson
torch (count, prob) new random: binomial
method (input!, p~) same random functional=ops.random_like: bernoulli_
method (input!, median#, sigma#) same random functional=ops.random_like: cauchy_
method (input!, lambd#) same random functional=ops.random_like: exponential_
method (input!, p#) same random functional=ops.random_like: geometric_
method (input!, mean#, std#) same random functional=ops.random_like: log_normal_ normal_
method (input!, from, to) same random functional=ops.random_like: random_
method (input!, from#, to#) same random functional=ops.random_like: uniform_

method (input!, src/other, non_blocking) same each functional=ops.copy: copy_
method (input!, value) same each functional=ops.full_like: fill_
method (input!) same each functional=torch.zeros_like: zero_
torch (input!, value) same each functional=ops.full_like: fill_
torch (input!) same each functional=torch.zeros_like: zero_
method (input!, fill_value#, wrap) same functional=ops.fill_diagonal: fill_diagonal_

init (tensor!, val#) same means=fill_: constant_
init (tensor!) same means=fill_:1.0: ones_
init (tensor!) same means=zero_: zeros_
init (tensor!, mean#, std#) same random means=normal_: normal_
init (tensor!, a#, b#) same random means=uniform_: uniform_
init (tensor!, mean#, std#, a#, b#) same random: trunc_normal_
init (tensor!) same: eye_
init (tensor!, groups) same: dirac_
init (tensor!, gain#) same random: orthogonal_ xavier_normal_ xavier_uniform_
init (tensor!, a#, mode, nonlinearity) same random: kaiming_normal_ kaiming_uniform_
init (tensor!, sparsity#, std#) same random: sparse_
init (nonlinearity, param#) number: calculate_gain

torch (*args) meta: device Size Generator finfo iinfo memory_format
torch (type1, type2) meta: promote_types
torch (tensor1/tensor/scalar/scalar1, tensor2/other/tensor/scalar2) meta: result_type
torch (from_, to) number: can_cast
torch (*shapes) meta: broadcast_shapes
torch () meta: get_default_dtype get_default_device
torch () number: is_grad_enabled is_autocast_enabled is_inference_mode_enabled
torch (mode) meta: no_grad enable_grad set_grad_enabled inference_mode
"""
