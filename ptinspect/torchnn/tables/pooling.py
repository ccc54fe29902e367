"""Pooling and padding."""

from __future__ import annotations

ROWS = """
[torch.nn.modules.pooling]
_MaxPoolNd(Module)
  args kernel_size stride=None~=kernel_size padding=0 dilation=1 return_indices=False
  args ceil_mode=False
  print kernel_size={kernel_size}, stride={stride}, padding={padding}, dilation={dilation},
  print ceil_mode={ceil_mode}
MaxPool2d(_MaxPoolNd)
  marks kernel_size stride padding dilation return_indices ceil_mode
MaxPool1d(MaxPool2d)
MaxPool3d(MaxPool2d)
_MaxUnpoolNd(Module)
  print kernel_size={kernel_size}, stride={stride}, padding={padding}
MaxUnpool1d(_MaxUnpoolNd)
  args kernel_size stride=None~=kernel_size padding=0~(0,)
MaxUnpool2d(_MaxUnpoolNd)
  args kernel_size stride=None~=kernel_size padding=0~(0,0)
MaxUnpool3d(_MaxUnpoolNd)
  args kernel_size stride=None~=kernel_size padding=0~(0,0,0)
_AvgPoolNd(Module)
  print kernel_size={kernel_size}, stride={stride}, padding={padding}
AvgPool1d(_AvgPoolNd)
  args kernel_size stride=None~=kernel_size padding=0~(0,) ceil_mode=False
  args count_include_pad=True
  marks kernel_size/1 stride padding ceil_mode count_include_pad
AvgPool2d(_AvgPoolNd)
  args kernel_size stride=None~=kernel_size padding=0 ceil_mode=False count_include_pad=True
  args divisor_override=None
  marks kernel_size stride padding ceil_mode count_include_pad divisor_override
AvgPool3d(AvgPool2d)
  fill padding=0 ceil_mode=False count_include_pad=True
FractionalMaxPool2d(Module)
  args kernel_size output_size=None output_ratio=None return_indices=False
  args _random_samples=None
  marks kernel_size output_size output_ratio return_indices _random_samples
FractionalMaxPool3d(FractionalMaxPool2d)
_LPPoolNd(Module)
  args norm_type kernel_size stride=None ceil_mode=False
  print norm_type={norm_type}, kernel_size={kernel_size}, stride={stride},
  print ceil_mode={ceil_mode}
LPPool2d(_LPPoolNd)
  marks norm_type kernel_size stride ceil_mode
LPPool1d(LPPool2d)
LPPool3d(LPPool2d)
_AdaptiveMaxPoolNd(Module)
  args output_size return_indices=False
  print output_size={output_size}
AdaptiveMaxPool1d(_AdaptiveMaxPoolNd)
AdaptiveMaxPool2d(_AdaptiveMaxPoolNd)
AdaptiveMaxPool3d(_AdaptiveMaxPoolNd)
_AdaptiveAvgPoolNd(Module)
  args output_size
  print output_size={output_size}
AdaptiveAvgPool1d(_AdaptiveAvgPoolNd)
AdaptiveAvgPool2d(_AdaptiveAvgPoolNd)
AdaptiveAvgPool3d(_AdaptiveAvgPoolNd)

[torch.nn.modules.padding]
_CircularPadNd(Module)
  print {padding}
_ConstantPadNd(Module)
  args value
  print padding={padding}, value={value}
ConstantPad1d(_ConstantPadNd)
  args padding value
ConstantPad2d(ConstantPad1d)
ConstantPad3d(ConstantPad1d)
CircularPad1d(_CircularPadNd)
  args padding
CircularPad2d(CircularPad1d)
CircularPad3d(CircularPad1d)
_ReflectionPadNd(_CircularPadNd)
ReflectionPad1d(CircularPad1d)
ReflectionPad2d(CircularPad1d)
ReflectionPad3d(CircularPad1d)
_ReplicationPadNd(_CircularPadNd)
ReplicationPad1d(CircularPad1d)
ReplicationPad2d(CircularPad1d)
ReplicationPad3d(CircularPad1d)
ZeroPad1d(CircularPad1d)
ZeroPad2d(CircularPad1d)
ZeroPad3d(CircularPad1d)
"""
