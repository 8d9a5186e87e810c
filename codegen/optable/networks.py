"""torch.nn.functional, and torch.nn.utils."""

TABLE = """
F (input, inplace?) each inplace: relu selu
F (input, inplace?) each: hardsigmoid hardswish mish relu6 silu
F (input) each: logsigmoid sigmoid softsign tanh tanhshrink
F (input, *, approximate) each: gelu
F (input, alpha#, inplace?) each inplace ops: celu elu
F (input, min_val#, max_val#, inplace?) each inplace ops: hardtanh
F (input, negative_slope#, inplace?) each inplace ops: leaky_relu
F (input, threshold#, value#, inplace?) each inplace ops: threshold
F (input, lambd#) each ops: hardshrink softshrink
torch,method (input, lambd#) each ops: hardshrink
F (input, beta#, threshold#) each ops: softplus
F (input, lower#, upper#, training, inplace?) new random: rrelu
F (input!, lower#, upper#, training) same random: rrelu_
torch (input, lower#, upper#, training) new random: rrelu
torch (input!, lower#, upper#, training) same random: rrelu_
torch,F (input, weight) new: prelu
method (input, weight) new: prelu
F (input, dim) new: glu
F (input, dim, _stacklevel, dtype) new: softmax softmin log_softmax
F (logits, tau#, hard, eps#, dim) new random: gumbel_softmax
F (input, p#, dim, eps#) new ops: normalize

F (input, p#, training, inplace?) maybe:opaque random: dropout dropout1d dropout2d
    dropout3d alpha_dropout feature_alpha_dropout
torch (input, p#, train) maybe:opaque random: dropout alpha_dropout
    feature_dropout feature_alpha_dropout
torch (input!, p#, train) same random: dropout_ alpha_dropout_ feature_dropout_
    feature_alpha_dropout_

F (input, target, size_average, reduce, reduction, weight) new: l1_loss mse_loss
F (input, target, reduction, delta#, weight) new ops: huber_loss
F (input, target, size_average, reduce, reduction, beta#) new: smooth_l1_loss
F (input, target, weight, size_average, reduce, reduction) new: binary_cross_entropy
    multilabel_soft_margin_loss
F (input, target, weight, size_average, reduce, reduction, pos_weight) new:
    binary_cross_entropy_with_logits
F (input, target, size_average, reduce, reduction) new: soft_margin_loss
    multilabel_margin_loss
F (input, target, size_average, reduce, reduction, log_target) new: kl_div
F (input, target, weight, size_average, ignore_index, reduce, reduction,
    label_smoothing#) new: cross_entropy
F (input, target, weight, size_average, ignore_index, reduce, reduction) new: nll_loss
F (input, target, margin#, size_average, reduce, reduction) new: hinge_embedding_loss
F (input1, input2, target, margin#, size_average, reduce, reduction) new:
    cosine_embedding_loss margin_ranking_loss
F (input, target, p, margin#, weight, size_average, reduce, reduction) new:
    multi_margin_loss
F (input, target, log_input, full, size_average, eps#, reduce, reduction) new:
    poisson_nll_loss
F (input, target, var, full, eps#, reduction) new: gaussian_nll_loss
F (anchor, positive, negative, margin#, p#, eps#, swap, size_average, reduce, reduction)
    new: triplet_margin_loss
F (log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
    new: ctc_loss

F (input, normalized_shape, weight, bias, eps#) new: layer_norm
F (input, normalized_shape, weight, eps#) new: rms_norm
F (input, num_groups, weight, bias, eps#) new: group_norm
F (input, running_mean!, running_var!, weight, bias, training, momentum#, eps#) new:
    batch_norm
F (input, running_mean!, running_var!, weight, bias, use_input_stats, momentum#, eps#)
    new: instance_norm
F (input, size, alpha#, beta#, k#) new: local_response_norm

F (input, weight, bias) new: linear
torch,F (input1, input2, weight, bias) new: bilinear
torch,F (input, weight, bias, stride, padding, dilation, groups) new: conv1d conv2d conv3d
torch,F (input, weight, bias, stride, padding, output_padding, groups, dilation) new:
    conv_transpose1d conv_transpose2d conv_transpose3d
torch,F (input, weight, bias, pad) new: conv_tbc
torch,F (input, kernel_size, stride, padding, ceil_mode, count_include_pad) new: avg_pool1d
F (input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
    new: avg_pool2d avg_pool3d
F (input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    several_if:return_indices: max_pool1d max_pool2d max_pool3d
torch (input, kernel_size, stride, padding, dilation, ceil_mode) new: max_pool1d
    max_pool2d max_pool3d
F (input, output_size) new: adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
F (input, output_size, return_indices) several_if:return_indices: adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d
F (input, norm_type#, kernel_size, stride, ceil_mode) new: lp_pool1d lp_pool2d lp_pool3d
F (input, indices, kernel_size, stride, padding, output_size) new: max_unpool1d
    max_unpool2d max_unpool3d
F (input, size, scale_factor, mode, align_corners, recompute_scale_factor, antialias)
    maybe:opaque: interpolate
F (input, pad, mode, value#) maybe:opaque ops: pad
F (input, output_size, kernel_size, dilation, padding, stride) maybe:opaque: fold
F (input, kernel_size, dilation, padding, stride) maybe:opaque: unfold
torch,F (input, upscale_factor) maybe:opaque: pixel_shuffle
torch,F (input, downscale_factor) maybe:opaque: pixel_unshuffle
torch,F (input, groups) maybe:opaque: channel_shuffle
F (input, grid, mode, padding_mode, align_corners) new: grid_sample
F (theta, size, align_corners) new: affine_grid
F (tensor/input, num_classes) new: one_hot
F (input, weight, padding_idx, max_norm, norm_type#, scale_grad_by_freq, sparse) new:
    embedding
F (query, key, value, attn_mask, dropout_p#, is_causal, scale#, enable_gqa) new random:
    scaled_dot_product_attention

utils (parameters.grad!, max_norm#, norm_type#, error_if_nonfinite, foreach) new:
    clip_grad_norm_
utils (parameters.grad!, clip_value#, foreach) nothing: clip_grad_value_
utils (parameters.grad!, max_norm#, total_norm, foreach) nothing: clip_grads_with_norm_
utils (tensors, norm_type#, error_if_nonfinite, foreach) new: get_total_norm
utils (parameters) new: parameters_to_vector
utils (vec, parameters[]!) nothing: vector_to_parameters
"""
