"""Operations that show a tensor in another shape, dtype or place, or take parts of it."""

TABLE = """
torch,method (input) view:transpose inplace: t
torch,method (input, dim0, dim1) view:transpose inplace: swapdims transpose
torch,method (input, axis0, axis1) view:transpose inplace: swapaxes
torch,method (input) view:opaque: adjoint
torch (input, dims) view:opaque: permute
method (input, *dims) view:opaque: permute
torch,method (input, source, destination) view:opaque: moveaxis movedim
torch,method (input, dim) view:reshape inplace: squeeze unsqueeze
method (input, *shape) view:reshape layout: view
method (input, other) view:reshape layout: view_as
torch,method (input, dim, sizes) view:reshape layout: unflatten
torch (input, shape) maybe:reshape layout: reshape
method (input, *shape) maybe:reshape layout: reshape
method (input, other) maybe:reshape layout: reshape_as
torch,method (input, start_dim, end_dim) maybe:reshape layout: flatten
torch,method (input) maybe:reshape layout: ravel
torch (input, size) view:opaque: broadcast_to
method (input, size) view:opaque: broadcast_to
method (input, *size) view:opaque: expand
method (input, other) view:opaque: expand_as
torch,method (input, dim, start, length) view:opaque: narrow
torch,method (input, dim, index) view:opaque: select
torch,method (input, offset, dim1, dim2) view:opaque: diagonal
linalg (A, *, offset, dim1, dim2) view:opaque: diagonal
method (input, dimension, size, step) view:opaque: unfold
torch,method (input, size, stride, storage_offset) view:opaque memory: as_strided
torch (input) view:real: view_as_real
torch (input) view:complex: view_as_complex
torch (input) maybe:opaque: real
torch (input) view:opaque: imag
torch,method (input) maybe:opaque: conj resolve_conj resolve_neg positive
method (input) view:opaque: values _values
method (input) view:opaque whole: indices _indices crow_indices col_indices ccol_indices
    row_indices
method (input, cls) view:opaque: as_subclass
torch,method (input) view:opaque each cuts: detach

method (input, *size) maybe:opaque: sum_to_size
method (input, dtype/device/other, dtype, non_blocking, copy) maybe:itself each converts: to
method (input, dtype, non_blocking) maybe:itself each own: type
method (input, other) maybe:itself each converts: type_as
method (input) maybe:itself each own: float double half bfloat16 cfloat cdouble chalf
method (input) maybe:itself cuts whole: bool byte char int long short
method (input, *, memory_format) maybe:itself each layout: contiguous
method (input) maybe:itself each: cpu
method (input, device, non_blocking) maybe:itself: cuda xpu pin_memory
method (input) maybe:itself: coalesce
method (input, dtype, *, masked_grad) maybe:itself: to_dense
method (input, layout, *, blocksize, dense_dim) maybe:itself: to_sparse
method (input) maybe:itself: to_sparse_coo
torch (data/obj, *, copy) maybe:opaque ops=tensor: asarray
torch (data#) maybe:opaque own ops=tensor: as_tensor
torch (*tensors) maybe:opaque: atleast_1d atleast_2d atleast_3d cartesian_prod
torch (equation, *operands) maybe:opaque of:1: einsum

torch,method (input, chunks, dim) views: chunk
torch,method (input, split_size/split_size_or_sections/split_sizes, dim) views: split
torch,method (input, split_sizes, dim) views: split_with_sizes
torch,method (input, indices_or_sections/indices/sections/tensor_indices_or_sections,
    dim) views: tensor_split
torch,method (input, indices_or_sections/indices/sections) views: dsplit hsplit vsplit
torch,method (input, dim) views: unbind
torch (*tensors) views: broadcast_tensors
torch (*tensors, *, indexing) views: meshgrid
torch,method (input, chunks, dim) views: unsafe_chunk
torch,method (input, split_size, dim) views: unsafe_split

torch,method (input, diagonal) new: diag
torch,method (input, diagonal) new inplace: tril triu
torch,method (input, offset) new: diagflat
torch,method (input, offset, dim1, dim2) new: diag_embed
torch,method (input, dims) new: flip
torch,method (input) new: fliplr flipud
torch,method (input, shifts, dims) new: roll
torch,method (input, k, dims) new: rot90
torch,method (input, dims) new: tile
method (input, *repeats) new: repeat
torch,method (input/repeats, repeats, dim, *, output_size) new: repeat_interleave
torch (tensors, dim) new: cat concat concatenate stack
torch (tensors) new: column_stack dstack hstack vstack row_stack
torch (*tensors) new: block_diag
torch (input, r, with_replacement) new: combinations
torch,method (input, dim, start, length) new: narrow_copy

torch,method (input, dim, index) new: index_select
torch,method (input, dim, index, *, sparse_grad) new: gather
torch,method (input, mask) new: masked_select
torch,method (input, index) new: take
torch,method (input, indices, dim) new: take_along_dim
method (input, mask) new: sparse_mask
torch,method (input, dim, index, source, *, alpha#) new inplace ops: index_add
torch,method (input, dim, index, source) new inplace: index_copy
torch,method (input, dim, index, value) new inplace: index_fill
torch,method (input, indices, values, accumulate) new inplace: index_put
torch,method (input, dim, index, source, reduce, *, include_self) new inplace: index_reduce
torch,method (input, mask, source) new inplace: masked_scatter
torch,method (input, index, source, accumulate) new inplace: put
torch,method (input, dim, index, src/value~, *, reduce) new inplace ops: scatter
torch,method (input, dim, index, src) new inplace: scatter_add
torch,method (input, dim, index, src, reduce, *, include_self) new inplace: scatter_reduce
torch,method (input, src, dim, index) new: select_scatter
torch,method (input, src, dim, start, end, step) new: slice_scatter
torch,method (input, src, offset, dim1, dim2) new: diagonal_scatter
torch,method (input, src, size, stride, storage_offset) new memory: as_strided_scatter

method (input!, *size) same: resize_
method (input!, the_template) same: resize_as_
method (input!, source, storage_offset, size, stride) same: set_
method (input!, size, stride, storage_offset) same: as_strided_
method (input!, callable) same: apply_
method (input!, tensor, callable) same: map_
method (input!, tensor1, tensor2, callable) same: map2_
method (input!) same flag: detach_ share_memory_
method (input!, requires_grad) same flag: requires_grad_
method (input!) nothing flag: retain_grad
method (input!, s) nothing flag: record_stream

attribute (input) view:opaque cuts: data
attribute (input) same: grad
attribute (input) view:transpose: T mT
attribute (input) view:opaque: H mH
attribute (input) maybe:opaque: real
attribute (input) view:opaque: imag
attribute (input) meta: shape dtype device layout names __class__ __name__
attribute (input) number: ndim is_sparse is_cuda is_cpu is_meta is_mps is_xpu
    is_nested is_quantized requires_grad itemsize nbytes name
"""
