"""Products of matrices, decompositions, Fourier transforms."""

TABLE = """
torch,method (input, other/mat2/tensor/vec/vec2) new: matmul mm bmm mv dot inner outer ger
    vdot kron smm
linalg (input, other) new: matmul
torch,method (input, mat1, mat2, *, beta#, alpha#) new inplace ops: addmm
torch,method (input, mat, vec, *, beta#, alpha#) new inplace ops: addmv
torch,method (input, vec1, vec2, *, beta#, alpha#) new inplace ops: addr
torch,method (input, batch1, batch2, *, beta#, alpha#) new inplace ops: addbmm baddbmm
torch,method (input, mat1, mat2, *, beta#, alpha#) new inplace: sspaddmm
torch (mat, mat1, mat2) new: saddmm
torch (a, b, dims) new: tensordot
torch,method (input, other, dim) new: cross
linalg (input, other, *, dim) new: cross
linalg (x, y, *, dim) new: vecdot
torch (*matrices) maybe:opaque: chain_matmul
linalg (tensors) maybe:opaque: multi_dot
torch,method (input, n) new: matrix_power
linalg (input, n) new: matrix_power
torch,method (input) new: matrix_exp inverse det logdet
linalg (input/A) new: matrix_exp inv det eigvals
torch,method (input, upper) new: cholesky cholesky_inverse
torch,method (input, input2, upper) new: cholesky_solve
linalg (input, *, upper) new: cholesky
linalg (input, *, upper, check_errors) several: cholesky_ex
linalg (input/A, *, check_errors) several: inv_ex
torch,method (input, some, compute_uv) several: svd
linalg (A, full_matrices, *, driver) several: svd
linalg (A, *, driver) new: svdvals
torch,method (input, some) several: qr
linalg (A, mode) several: qr
torch,method (input) several: geqrf slogdet
linalg (input/A) several: eig slogdet
linalg (input/A, UPLO) several: eigh
linalg (input/A, UPLO) new: eigvalsh
torch,method (input, rcond#) new: pinverse
linalg (input/A, rcond, hermitian, *, atol, rtol) new: pinv
linalg (input/A, tol, hermitian, *, atol, rtol) new decides whole: matrix_rank
linalg (input/A, p#) new: cond
linalg (input/x, ord#, dim, keepdim, *, dtype) new ops=norm stable=norm: vector_norm norm
linalg (input/A, ord#, dim, keepdim, *, dtype) new: matrix_norm
linalg (A, B, *, left) new: solve
linalg (A, B, *, left, check_errors) several: solve_ex
linalg (input/A, B, *, upper, left, unitriangular) new: solve_triangular
torch,method (input/b, A, upper, transpose, unitriangular) several: triangular_solve
linalg (A, B/b, rcond#, *, driver) several: lstsq
torch (mat1, mat2) new: hspmm
linalg (A, *, pivot) several: lu lu_factor
linalg (A, *, pivot, check_errors) several: lu_factor_ex
linalg (LU, pivots, B, *, left, adjoint) new: lu_solve
torch,method (input/b, LU_data, LU_pivots) new: lu_solve
torch (LU_data, LU_pivots, unpack_data, unpack_pivots) several: lu_unpack
torch (A, pivot, get_infos) several: lu
method (input, pivot, get_infos) several: lu
linalg (input/A, *, hermitian) several: ldl_factor
linalg (input/A, *, hermitian, check_errors) several: ldl_factor_ex
linalg (LD, pivots, B, *, hermitian) new: ldl_solve
linalg (input/A, tau) new: householder_product
torch,method (input, input2/tau) new: orgqr
torch,method (input, input2/tau, input3/other, left, transpose) new: ormqr
linalg (input/A, ind) new: tensorinv
linalg (input/A, other/B, dims) new: tensorsolve
linalg (x, *, N) new: vander
torch (A, q, center, niter) several random: pca_lowrank
torch (A, q, niter, M) several random: svd_lowrank
torch (A, k, B, X, n, iK, niter, tol#, largest, method, tracker, ortho_iparams,
    ortho_fparams, ortho_bparams) several random: lobpcg

fft (input, n, dim, norm) new: fft hfft ifft ihfft irfft rfft
fft (input, s, dim, norm) new: fft2 fftn hfft2 hfftn ifft2 ifftn ihfft2 ihfftn irfft2
    irfftn rfft2 rfftn
fft (input, dim) new: fftshift ifftshift
fft (n, d#) new: fftfreq rfftfreq
torch,method (input, n_fft, hop_length, win_length, window, center, pad_mode, normalized,
    onesided, return_complex, align_to_window) new: stft
torch,method (input, n_fft, hop_length, win_length, window, center, normalized, onesided,
    length, return_complex) new: istft
sparse (mat1/mat, mat2) new: mm
sparse (input/mat, mat1, mat2, *, beta#, alpha#) new: addmm sampled_addmm
sparse (input, dim, dtype) new: sum softmax log_softmax
"""
