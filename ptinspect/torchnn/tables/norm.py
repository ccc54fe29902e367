"""Normalization."""

from __future__ import annotations

ROWS = """
[torch.nn.modules.batchnorm]
_NormBase(Module)
  args num_features eps=1e-05 momentum=0.1 affine=True track_running_stats=True &factory
  args * bias=True<bias?affine
  print {num_features}, eps={eps}, momentum={momentum}, affine={affine}, bias={bias?},
  print track_running_stats={track_running_stats}
_BatchNorm(_NormBase)
BatchNorm2d(_BatchNorm)
  marks num_features eps momentum affine track_running_stats weight bias running_mean
  marks running_var num_batches_tracked
BatchNorm1d(BatchNorm2d)
BatchNorm3d(BatchNorm2d)
SyncBatchNorm(_BatchNorm)
  args num_features eps=1e-05 momentum=0.1 affine=True track_running_stats=True
  args process_group=None &factory * bias=True<bias?affine
  marks num_features eps momentum affine track_running_stats weight bias running_mean
  marks running_var num_batches_tracked process_group
_LazyNormBase(_NormBase)
  args eps=1e-05 momentum=0.1 affine=True track_running_stats=True &factory
  args * bias=True<@lazy_bias
LazyBatchNorm1d(_LazyNormBase)
LazyBatchNorm2d(_LazyNormBase)
LazyBatchNorm3d(_LazyNormBase)

[torch.nn.modules.instancenorm]
_InstanceNorm(torch.nn.modules.batchnorm._NormBase)
  args num_features eps=1e-05 momentum=0.1 affine=False track_running_stats=False &factory
  args * bias=True<bias?affine
InstanceNorm2d(_InstanceNorm)
  marks num_features eps momentum affine track_running_stats=False weight bias running_mean
  marks running_var num_batches_tracked
InstanceNorm1d(InstanceNorm2d)
InstanceNorm3d(InstanceNorm2d)
LazyInstanceNorm1d(torch.nn.modules.batchnorm._LazyNormBase)
LazyInstanceNorm2d(torch.nn.modules.batchnorm._LazyNormBase)
LazyInstanceNorm3d(torch.nn.modules.batchnorm._LazyNormBase)

[torch.nn.modules.normalization]
LocalResponseNorm(Module)
  args size alpha=0.0001 beta=0.75 k=1.0
  print {size}, alpha={alpha}, beta={beta}, k={k}
  marks size alpha beta k
CrossMapLRN2d(LocalResponseNorm)
  args size alpha=0.0001 beta=0.75 k=1
LayerNorm(Module)
  args normalized_shape eps=1e-05 elementwise_affine=True
  args bias=True<bias?elementwise_affine &factory
  print {normalized_shape}, eps={eps}, elementwise_affine={elementwise_affine}, bias={bias?}
  marks normalized_shape eps elementwise_affine weight bias
GroupNorm(Module)
  args num_groups num_channels eps=1e-05 affine=True &factory * bias=True<bias?affine
  print {num_groups}, {num_channels}, eps={eps}, affine={affine}, bias={bias?}
  marks num_groups num_channels eps affine weight bias
RMSNorm(Module)
  args normalized_shape eps=None elementwise_affine=True &factory
  print {normalized_shape}, eps={eps}, elementwise_affine={elementwise_affine}
  marks normalized_shape eps elementwise_affine weight
"""
