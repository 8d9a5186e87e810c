"""Operations over a whole tensor or along its dimensions: sums, norms, orders."""

TABLE = """
torch,method (input, dim, keepdim, *, dtype) new: mean nanmean nansum prod sum
torch,method (input, dim, keepdim) new: amax amin logsumexp
torch,method (input, dim, keepdim) new whole: argmax argmin
special (input, dim, keepdim) new: logsumexp
torch,method (input, dim, keepdim) new whole: all any
torch,method (input, dim/other, keepdim) several_if:dim: max min
torch,method (input, dim, keepdim) several_if:dim: median nanmedian
torch,method (input, dim, keepdim) several: mode
torch,method (input, *, dim, keepdim) several: aminmax
torch,method (input, dim/unbiased, unbiased, keepdim, *, correction#) new: std var
torch (input, dim/unbiased, unbiased, keepdim, *, correction#) several: std_mean var_mean
torch,method (input, dim, dtype) new inplace: cumprod cumsum
torch,method (input, dim) new: logcumsumexp
torch,method (input, dim) several: cummax cummin
torch,method (input, dim) new whole: count_nonzero
torch,method (input, p#, dim, keepdim, dtype) new ops stable: norm
torch,method (input, other, p#) new: dist
torch (x1, x2, p#, compute_mode) new: cdist
torch,F (input, p#) new: pdist
torch,F (x1, x2, p#, eps#, keepdim) new: pairwise_distance
torch,F (x1, x2, dim, eps#) new ops: cosine_similarity
torch,method (input, p#, dim, maxnorm#) new inplace: renorm
torch (input, dim, keepdim) new: frobenius_norm nuclear_norm
torch (v, pow, dim) new: norm_except_dim
torch,method (input, q~, dim, keepdim, *, interpolation) new: nanquantile quantile
torch,method (input, k, dim, largest, sorted) several: topk
torch,method (input, k, dim, keepdim) several: kthvalue
torch,method (input, dim, descending, stable) several: sort
torch,method (input, dim, descending, stable) new whole: argsort
torch,method (input) new: msort
torch,method (input, *, as_tuple) several_if:as_tuple: nonzero
torch,method (input) new whole: argwhere
torch (input, sorted, return_inverse, return_counts, dim) several_if:return_inverse: unique
method (input, sorted, return_inverse, return_counts, dim) several_if:return_inverse: unique
torch,method (input, return_inverse, return_counts, dim) several_if:return_inverse:
    unique_consecutive
torch,method (input, bins, min#, max#) new decides: histc
torch,method (input, bins, *, range#, weight, density) several: histogram
torch,method (input, weights, minlength) new: bincount
torch,method (input, n, dim, prepend, append) new: diff
torch (input, *, spacing, dim, edge_order) several: gradient
torch (y, x, *, dx#, dim) new: cumulative_trapezoid trapezoid trapz
torch,method (input, *, correction, fweights, aweights) new: cov
torch,method (input) new: corrcoef trace
torch,method (input, dim, dtype) new: log_softmax softmax
special (input, dim, dtype) new: log_softmax softmax
torch,method (input, other) number: equal
torch,method (input, other, rtol#, atol#, equal_nan) number decides: allclose
torch,method (input) number: is_complex is_floating_point is_nonzero is_signed
    is_inference is_conj is_neg numel get_device
method (input) number: dim ndimension nelement element_size is_pinned is_shared is_coalesced
    dense_dim sparse_dim _nnz has_names
method (input) number layout: is_contiguous dim_order
method (input) number memory: data_ptr storage_offset
method (input, other/tensor) number: is_same_size
torch (input, other) number: is_same_size
torch (obj) number: is_tensor is_storage
torch (obj) meta: typename
method (input, dim) meta: size
method (input, dim) meta layout: stride
method (input) meta: __len__
method (input) setting: item
"""
