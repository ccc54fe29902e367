"""Convolutions, and what folds and unfolds their windows."""

from __future__ import annotations

ROWS = """
[torch.nn.modules.conv]
_ConvNd(Module)
  args in_channels out_channels kernel_size stride padding dilation transposed output_padding
  args groups bias<bias? padding_mode &factory
  print {in_channels}, {out_channels}, kernel_size={kernel_size}, stride={stride},
  print [padding!=0*]padding={padding}, [dilation!=1*]dilation={dilation},
  print [output_padding!=0*]output_padding={output_padding}, [groups!=1]groups={groups},
  print [bias==None]bias=False, [padding_mode!='zeros']padding_mode={padding_mode}
  fill padding_mode='zeros'
Conv1d(_ConvNd)
  args in_channels out_channels kernel_size stride=1~(1,) padding=0~(0,) dilation=1~(1,)
  args groups=1 bias=True<bias? padding_mode='zeros' &factory
  marks in_channels out_channels kernel_size/1 stride padding dilation groups
  marks transposed=False weight bias
Conv2d(_ConvNd)
  args in_channels out_channels kernel_size stride=1~(1,1) padding=0~(0,0) dilation=1~(1,1)
  args groups=1 bias=True<bias? padding_mode='zeros' &factory
  marks in_channels out_channels kernel_size/2 stride padding dilation groups
  marks transposed=False weight bias
Conv3d(_ConvNd)
  args in_channels out_channels kernel_size stride=1~(1,1,1) padding=0~(0,0,0)
  args dilation=1~(1,1,1) groups=1 bias=True<bias? padding_mode='zeros' &factory
  marks in_channels out_channels kernel_size/3 stride padding dilation groups
  marks transposed=False weight bias
_ConvTransposeNd(_ConvNd)
_ConvTransposeMixin(_ConvTransposeNd)
  args *args<- **kwargs<-
ConvTranspose1d(_ConvTransposeNd)
  args in_channels out_channels kernel_size stride=1~(1,) padding=0~(0,)
  args output_padding=0~(0,) groups=1 bias=True<bias? dilation=1~(1,) padding_mode='zeros'
  args &factory
  marks in_channels out_channels kernel_size/1 stride padding dilation groups output_padding
  marks transposed=True weight bias
ConvTranspose2d(_ConvTransposeNd)
  args in_channels out_channels kernel_size stride=1~(1,1) padding=0~(0,0)
  args output_padding=0~(0,0) groups=1 bias=True<bias? dilation=1~(1,1) padding_mode='zeros'
  args &factory
  marks in_channels out_channels kernel_size/2 stride padding dilation groups output_padding
  marks transposed=True weight bias
ConvTranspose3d(_ConvTransposeNd)
  args in_channels out_channels kernel_size stride=1~(1,1,1) padding=0~(0,0,0)
  args output_padding=0~(0,0,0) groups=1 bias=True<bias? dilation=1~(1,1,1)
  args padding_mode='zeros' &factory
  marks in_channels out_channels kernel_size/3 stride padding dilation groups output_padding
  marks transposed=True weight bias
LazyConv1d(_ConvNd)
  args out_channels kernel_size stride=1~(1,) padding=0~(0,) dilation=1~(1,)
  args groups=1 bias=True<bias? padding_mode='zeros' &factory
LazyConv2d(_ConvNd)
  args out_channels kernel_size stride=1~(1,1) padding=0~(0,0) dilation=1~(1,1)
  args groups=1 bias=True<bias? padding_mode='zeros' &factory
LazyConv3d(_ConvNd)
  args out_channels kernel_size stride=1~(1,1,1) padding=0~(0,0,0) dilation=1~(1,1,1)
  args groups=1 bias=True<bias? padding_mode='zeros' &factory
LazyConvTranspose1d(_ConvNd)
  args out_channels kernel_size stride=1~(1,) padding=0~(0,) output_padding=0~(0,)
  args groups=1 bias=True<bias? dilation=1~(1,) padding_mode='zeros' &factory
LazyConvTranspose2d(_ConvNd)
  args out_channels kernel_size stride=1~(1,1) padding=0~(0,0) output_padding=0~(0,0)
  args groups=1 bias=True<bias? dilation=1~(1,1) padding_mode='zeros' &factory
LazyConvTranspose3d(_ConvNd)
  args out_channels kernel_size stride=1~(1,1,1) padding=0~(0,0,0) output_padding=0~(0,0,0)
  args groups=1 bias=True<bias? dilation=1~(1,1,1) padding_mode='zeros' &factory

[torch.nn.modules.fold]
Fold(Module)
  args output_size kernel_size dilation=1 padding=0 stride=1
  print output_size={output_size}, kernel_size={kernel_size}, dilation={dilation},
  print padding={padding}, stride={stride}
  marks output_size kernel_size dilation padding stride
Unfold(Module)
  args kernel_size dilation=1 padding=0 stride=1
  print kernel_size={kernel_size}, dilation={dilation}, padding={padding}, stride={stride}

[torch.nn.modules.channelshuffle]
ChannelShuffle(Module)
  args groups
  print groups={groups}

[torch.nn.modules.pixelshuffle]
PixelShuffle(Module)
  args upscale_factor
  print upscale_factor={upscale_factor}
PixelUnshuffle(Module)
  args downscale_factor
  print downscale_factor={downscale_factor}

[torch.nn.modules.upsampling]
Upsample(Module)
  args size=None scale_factor=None mode='nearest' align_corners=None recompute_scale_factor=None
  print [scale_factor!None]scale_factor={scale_factor!r}, [scale_factor==None]size={size!r},
  print mode={mode!r}
  fill recompute_scale_factor=True
  marks size scale_factor mode align_corners
UpsamplingNearest2d(Upsample)
  args size=None scale_factor=None
  marks size scale_factor mode='nearest' align_corners=None
UpsamplingBilinear2d(Upsample)
  args size=None scale_factor=None
  marks size scale_factor mode='bilinear' align_corners=True
"""
