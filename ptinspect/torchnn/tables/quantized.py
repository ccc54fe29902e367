"""Quantized modules (torch.ao.nn.quantized, .quantized.dynamic, .sparse, .intrinsic.quantized)."""

from __future__ import annotations

ROWS = """
[torch.ao.nn.quantized.modules]
Quantize(Module)
  args scale zero_point dtype factory_kwargs=None<-
  print scale={scale}, zero_point={zero_point}, dtype={dtype}
DeQuantize(Module)
[torch.ao.nn.quantized.modules.utils]
WeightedQuantizedModule(Module)

[torch.ao.nn.quantized.modules.activation]
ReLU6(torch.nn.modules.activation.ReLU)
  name QuantizedReLU6
Hardswish(Module)
  args scale zero_point &factory
  name QuantizedHardswish
ELU(torch.nn.modules.activation.ELU)
  args scale zero_point alpha=1.0
  name QuantizedELU
LeakyReLU(torch.nn.modules.activation.LeakyReLU)
  args scale zero_point negative_slope=0.01 inplace=False &factory
  name QuantizedLeakyReLU
Sigmoid(Module)
  args output_scale output_zero_point
Softmax(torch.nn.modules.activation.Softmax)
  args dim=None scale=1.0 zero_point=0
  name QuantizedSoftmax
MultiheadAttention(torch.ao.nn.quantizable.modules.activation.MultiheadAttention)
  name QuantizedMultiheadAttention
PReLU(Module)
  args output_scale<scale output_zero_point<zero_point num_parameters=1
  name QuantizedPReLU

[torch.ao.nn.quantized.modules.batchnorm]
_BatchNorm(torch.nn.modules.batchnorm._NormBase)
  args num_features eps=1e-05 momentum=0.1 &factory
BatchNorm2d(_BatchNorm)
  name QuantizedBatchNorm2d
BatchNorm3d(_BatchNorm)
  name QuantizedBatchNorm3d
[torch.ao.nn.intrinsic.quantized.modules.bn_relu]
BNReLU2d(torch.ao.nn.quantized.modules.batchnorm._BatchNorm)
  name QuantizedBNReLU2d
BNReLU3d(torch.ao.nn.quantized.modules.batchnorm._BatchNorm)
  name QuantizedBNReLU3d

[torch.ao.nn.quantized.modules.conv]
_ConvNd(Module)
  args in_channels out_channels kernel_size stride=1 padding=0 dilation=1 groups=1
  args bias=True<@packed_bias? padding_mode='zeros' &factory
  print {in_channels}, {out_channels}, kernel_size={kernel_size}, stride={stride},
  print scale={scale}, zero_point={zero_point}, [padding!=0*]padding={padding},
  print [dilation!=1*]dilation={dilation}, [output_padding!=0*]output_padding={output_padding},
  print [groups!=1]groups={groups}, [@packed_bias==None]bias=False
Conv1d(_ConvNd)
  args in_channels out_channels kernel_size stride=1~(1,) padding=0~(0,) dilation=1~(1,)
  args groups=1 bias=True<@packed_bias? padding_mode='zeros' &factory
  name QuantizedConv1d
Conv2d(_ConvNd)
  args in_channels out_channels kernel_size stride=1~(1,1) padding=0~(0,0) dilation=1~(1,1)
  args groups=1 bias=True<@packed_bias? padding_mode='zeros' &factory
  name QuantizedConv2d
Conv3d(_ConvNd)
  args in_channels out_channels kernel_size stride=1~(1,1,1) padding=0~(0,0,0)
  args dilation=1~(1,1,1) groups=1 bias=True<@packed_bias? padding_mode='zeros' &factory
  name QuantizedConv3d
_ConvTransposeNd(_ConvNd)
  args in_channels out_channels kernel_size stride padding dilation transposed output_padding
  args groups bias<@packed_bias? padding_mode &factory
ConvTranspose1d(_ConvTransposeNd)
  args in_channels out_channels kernel_size stride=1~(1,) padding=0~(0,)
  args output_padding=0~(0,) groups=1 bias=True<@packed_bias? dilation=1~(1,)
  args padding_mode='zeros' &factory
  name QuantizedConvTranspose1d
ConvTranspose2d(_ConvTransposeNd)
  args in_channels out_channels kernel_size stride=1~(1,1) padding=0~(0,0)
  args output_padding=0~(0,0) groups=1 bias=True<@packed_bias? dilation=1~(1,1)
  args padding_mode='zeros' &factory
  name QuantizedConvTranspose2d
ConvTranspose3d(_ConvTransposeNd)
  args in_channels out_channels kernel_size stride=1~(1,1,1) padding=0~(0,0,0)
  args output_padding=0~(0,0,0) groups=1 bias=True<@packed_bias? dilation=1~(1,1,1)
  args padding_mode='zeros' &factory
  name QuantizedConvTranspose3d
[torch.ao.nn.intrinsic.quantized.modules.conv_relu]
ConvReLU1d(torch.ao.nn.quantized.modules.conv.Conv1d)
  name QuantizedConvReLU1d
ConvReLU2d(torch.ao.nn.quantized.modules.conv.Conv2d)
  name QuantizedConvReLU2d
ConvReLU3d(torch.ao.nn.quantized.modules.conv.Conv3d)
  name QuantizedConvReLU3d
[torch.ao.nn.intrinsic.quantized.modules.conv_add]
ConvAdd2d(torch.ao.nn.quantized.modules.conv.Conv2d)
  name QuantizedConvAdd2d
ConvAddReLU2d(torch.ao.nn.quantized.modules.conv.Conv2d)
  name QuantizedConvAddReLU2d
[torch.ao.nn.quantized.dynamic.modules.conv]
Conv1d(torch.ao.nn.quantized.modules.conv.Conv1d)
  args in_channels out_channels kernel_size stride=1~(1,) padding=0~(0,) dilation=1~(1,)
  args groups=1 bias=True<@packed_bias? padding_mode='zeros' &factory reduce_range=True<-
  name DynamicQuantizedConv1d
Conv2d(torch.ao.nn.quantized.modules.conv.Conv2d)
  name DynamicQuantizedConv2d
Conv3d(torch.ao.nn.quantized.modules.conv.Conv3d)
  name DynamicQuantizedConv3d
ConvTranspose1d(torch.ao.nn.quantized.modules.conv.ConvTranspose1d)
  name DynamicQuantizedConvTranspose1d
ConvTranspose2d(torch.ao.nn.quantized.modules.conv.ConvTranspose2d)
  name DynamicQuantizedConvTranspose2d
ConvTranspose3d(torch.ao.nn.quantized.modules.conv.ConvTranspose3d)
  name DynamicQuantizedConvTranspose3d

[torch.ao.nn.quantized.modules.dropout]
Dropout(torch.nn.modules.dropout.Dropout)
  name QuantizedDropout

[torch.ao.nn.quantized.modules.embedding_ops]
EmbeddingPackedParams(Module)
  args num_embeddings<- embedding_dim<- dtype=torch.quint8
  style packed
Embedding(Module)
  args num_embeddings embedding_dim padding_idx=None<- max_norm=None<- norm_type=2.0<-
  args scale_grad_by_freq=False<- sparse=False<- _weight=None<- dtype=torch.quint8
  print num_embeddings={num_embeddings}, embedding_dim={embedding_dim},
  print dtype={_packed_params.dtype}, qscheme={@qscheme}
  name QuantizedEmbedding
  style unpacked
EmbeddingBag(Embedding)
  args num_embeddings embedding_dim max_norm=None<- norm_type=2.0<- scale_grad_by_freq=False<-
  args mode='sum' sparse=False<- _weight=None<- include_last_offset=False dtype=torch.quint8
  name QuantizedEmbeddingBag

[torch.ao.nn.quantized.modules.functional_modules]
FloatFunctional(Module)
FXFloatFunctional(Module)
QFunctional(Module)
  print scale={scale}, zero_point={zero_point}
  name QFunctional

[torch.ao.nn.quantized.modules.linear]
LinearPackedParams(Module)
  args dtype=torch.qint8
  style packed
Linear(Module)
  args in_features out_features bias_=True<@packed_bias? dtype=torch.qint8<_packed_params.dtype
  print in_features={in_features}, out_features={out_features}, scale={scale},
  print zero_point={zero_point}, qscheme={@qscheme}
  name QuantizedLinear
  style unpacked
[torch.ao.nn.intrinsic.quantized.modules.linear_relu]
LinearReLU(torch.ao.nn.quantized.modules.linear.Linear)
  args in_features out_features bias=True<@packed_bias? dtype=torch.qint8<_packed_params.dtype
  name QuantizedLinearReLU
LinearLeakyReLU(LinearReLU)
  args in_features out_features negative_slope bias=True<@packed_bias?
  args dtype=torch.qint8<_packed_params.dtype
  name QuantizedLinearLeakyReLU
LinearTanh(LinearReLU)
  name QuantizedLinearTanh
[torch.ao.nn.quantized.dynamic.modules.linear]
Linear(torch.ao.nn.quantized.modules.linear.Linear)
  print in_features={in_features}, out_features={out_features}, dtype={_packed_params.dtype},
  print [_packed_params.dtype==torch.qint8]qscheme={@qscheme}
  name DynamicQuantizedLinear
[torch.ao.nn.intrinsic.quantized.dynamic.modules.linear_relu]
LinearReLU(torch.ao.nn.quantized.dynamic.modules.linear.Linear)
  args in_features out_features bias=True<@packed_bias? dtype=torch.qint8<_packed_params.dtype
  name DynamicQuantizedLinearReLU

[torch.ao.nn.sparse.quantized.linear]
LinearPackedParams(Module)
  args row_block_size=1<- col_block_size=4<- dtype=torch.qint8
  name SparseQuantizedLinearPackedParams
  style packed
Linear(torch.ao.nn.quantized.modules.linear.Linear)
  args in_features out_features row_block_size<- col_block_size<- bias=True<@packed_bias?
  args dtype=torch.qint8<_packed_params.dtype
  name SparseQuantizedLinear
[torch.ao.nn.sparse.quantized.dynamic.linear]
Linear(torch.ao.nn.sparse.quantized.linear.Linear)
  print in_features={in_features}, out_features={out_features}, qscheme={@qscheme}
  name SparseQuantizedDynamicLinear

[torch.ao.nn.quantized.modules.normalization]
LayerNorm(torch.nn.modules.normalization.LayerNorm)
  args normalized_shape weight bias scale zero_point eps=1e-05 elementwise_affine=True &factory
  name QuantizedLayerNorm
GroupNorm(torch.nn.modules.normalization.GroupNorm)
  args num_groups num_channels weight bias scale zero_point eps=1e-05 affine=True &factory
  name QuantizedGroupNorm
InstanceNorm1d(torch.nn.modules.instancenorm._InstanceNorm)
  args num_features weight bias scale zero_point eps=1e-05 momentum=0.1 affine=False
  args track_running_stats=False &factory
  name QuantizedInstanceNorm1d
InstanceNorm2d(InstanceNorm1d)
  name QuantizedInstanceNorm2d
InstanceNorm3d(InstanceNorm1d)
  name QuantizedInstanceNorm3d

[torch.ao.nn.quantized.modules.rnn]
LSTM(torch.ao.nn.quantizable.modules.rnn.LSTM)
  name QuantizedLSTM

[torch.ao.nn.quantized.dynamic.modules.rnn]
PackedParameter(Module)
  args param
RNNBase(Module)
  args mode input_size hidden_size num_layers=1 bias=True batch_first=False dropout=0.0
  args bidirectional=False dtype=torch.qint8
  print {input_size}, {hidden_size}, [num_layers!=1]num_layers={num_layers},
  print [bias!True]bias={bias}, [batch_first!False]batch_first={batch_first},
  print [dropout!=0]dropout={dropout}, [bidirectional!False]bidirectional={bidirectional}
  name DynamicQuantizedRNN
  style unpacked
LSTM(RNNBase)
  args input_size hidden_size num_layers=1 bias=True batch_first=False dropout=0.0
  args bidirectional=False dtype=torch.qint8
  name DynamicQuantizedLSTM
GRU(LSTM)
  name DynamicQuantizedGRU
RNNCellBase(Module)
  args input_size hidden_size bias=True num_chunks=4<- dtype=torch.qint8<weight_dtype
  print {input_size}, {hidden_size}, [bias!True]bias={bias},
  print [nonlinearity!='tanh']nonlinearity={nonlinearity}
  name DynamicQuantizedRNNBase
RNNCell(RNNCellBase)
  args input_size hidden_size bias=True nonlinearity='tanh' dtype=torch.qint8<weight_dtype
  name DynamicQuantizedRNNCell
LSTMCell(RNNCellBase)
  args input_size hidden_size bias=True dtype=torch.qint8<weight_dtype
  name DynamicQuantizedLSTMCell
GRUCell(LSTMCell)
  name DynamicQuantizedGRUCell
"""
