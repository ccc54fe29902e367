"""Modules on the way to quantization (torch.ao.nn.intrinsic, .qat, .quantizable, reference)."""

from __future__ import annotations

ROWS = """
[torch.ao.nn.intrinsic.modules.fused]
_FusedModule(Module)
  args *args<*
ConvReLU1d(_FusedModule)
  args conv<0 relu<1
ConvReLU2d(ConvReLU1d)
ConvReLU3d(ConvReLU1d)
LinearReLU(_FusedModule)
  args linear<0 relu<1
ConvBn1d(_FusedModule)
  args conv<0 bn<1
ConvBn2d(ConvBn1d)
ConvBn3d(ConvBn1d)
ConvBnReLU1d(_FusedModule)
  args conv<0 bn<1 relu<2
ConvBnReLU2d(ConvBnReLU1d)
ConvBnReLU3d(ConvBnReLU1d)
BNReLU2d(_FusedModule)
  args batch_norm<0 relu<1
BNReLU3d(BNReLU2d)
LinearBn1d(_FusedModule)
  args linear<0 bn<1
LinearLeakyReLU(_FusedModule)
  args linear<0 leaky_relu<1
LinearTanh(_FusedModule)
  args linear<0 tanh<1
ConvAdd2d(_FusedModule)
  args conv<0 add
ConvAddReLU2d(_FusedModule)
  args conv<0 add relu<1

[torch.ao.nn.qat.modules.conv]
_ConvNd(torch.nn.modules.conv._ConvNd)
  args in_channels out_channels kernel_size stride padding dilation transposed output_padding
  args groups bias<bias? padding_mode qconfig=None &factory
Conv1d(_ConvNd)
  args in_channels out_channels kernel_size stride=1~(1,) padding=0~(0,) dilation=1~(1,)
  args groups=1 bias=True<bias? padding_mode='zeros' qconfig=None &factory
Conv2d(_ConvNd)
  args in_channels out_channels kernel_size stride=1~(1,1) padding=0~(0,0) dilation=1~(1,1)
  args groups=1 bias=True<bias? padding_mode='zeros' qconfig=None &factory
Conv3d(_ConvNd)
  args in_channels out_channels kernel_size stride=1~(1,1,1) padding=0~(0,0,0)
  args dilation=1~(1,1,1) groups=1 bias=True<bias? padding_mode='zeros' qconfig=None &factory
[torch.ao.nn.qat.modules.embedding_ops]
Embedding(torch.nn.modules.sparse.Embedding)
  args num_embeddings embedding_dim padding_idx=None max_norm=None norm_type=2.0
  args scale_grad_by_freq=False sparse=False _weight=None<- &factory qconfig=None
EmbeddingBag(torch.nn.modules.sparse.EmbeddingBag)
  args num_embeddings embedding_dim max_norm=None norm_type=2.0 scale_grad_by_freq=False
  args mode='mean' sparse=False _weight=None<- include_last_offset=False padding_idx=None
  args qconfig=None &factory
[torch.ao.nn.qat.modules.linear]
Linear(torch.nn.modules.linear.Linear)
  args in_features out_features bias=True<bias? qconfig=None &factory
[torch.ao.nn.qat.dynamic.modules.linear]
Linear(torch.ao.nn.qat.modules.linear.Linear)

[torch.ao.nn.intrinsic.qat.modules.conv_fused]
_ConvBnNd(torch.nn.modules.conv._ConvNd)
  args in_channels out_channels kernel_size stride padding dilation transposed output_padding
  args groups bias<bias? padding_mode eps=1e-05<bn.eps momentum=0.1<bn.momentum freeze_bn=False
  args qconfig=None dim=2<-
ConvBn1d(_ConvBnNd)
  args in_channels out_channels kernel_size stride=1~(1,) padding=0~(0,) dilation=1~(1,)
  args groups=1 bias=None~False<bias? padding_mode='zeros' eps=1e-05<bn.eps
  args momentum=0.1<bn.momentum freeze_bn=False qconfig=None
ConvBnReLU1d(ConvBn1d)
ConvReLU1d(torch.ao.nn.qat.modules.conv.Conv1d)
  args in_channels out_channels kernel_size stride=1~(1,) padding=0~(0,) dilation=1~(1,)
  args groups=1 bias=True<bias? padding_mode='zeros' qconfig=None
ConvBn2d(_ConvBnNd)
  args in_channels out_channels kernel_size stride=1~(1,1) padding=0~(0,0) dilation=1~(1,1)
  args groups=1 bias=None~False<bias? padding_mode='zeros' eps=1e-05<bn.eps
  args momentum=0.1<bn.momentum freeze_bn=False qconfig=None
ConvBnReLU2d(ConvBn2d)
ConvReLU2d(torch.ao.nn.qat.modules.conv.Conv2d)
  args in_channels out_channels kernel_size stride=1~(1,1) padding=0~(0,0) dilation=1~(1,1)
  args groups=1 bias=True<bias? padding_mode='zeros' qconfig=None
ConvBn3d(_ConvBnNd)
  args in_channels out_channels kernel_size stride=1~(1,1,1) padding=0~(0,0,0)
  args dilation=1~(1,1,1) groups=1 bias=None~False<bias? padding_mode='zeros' eps=1e-05<bn.eps
  args momentum=0.1<bn.momentum freeze_bn=False qconfig=None
ConvBnReLU3d(ConvBn3d)
ConvReLU3d(torch.ao.nn.qat.modules.conv.Conv3d)
  args in_channels out_channels kernel_size stride=1~(1,1,1) padding=0~(0,0,0)
  args dilation=1~(1,1,1) groups=1 bias=True<bias? padding_mode='zeros' qconfig=None
[torch.ao.nn.intrinsic.qat.modules.linear_fused]
LinearBn1d(torch.nn.modules.linear.Linear)
  args in_features out_features bias=True<bias? eps=1e-05<bn.eps momentum=0.1<bn.momentum
  args freeze_bn=False qconfig=None
[torch.ao.nn.intrinsic.qat.modules.linear_relu]
LinearReLU(torch.ao.nn.qat.modules.linear.Linear)
  args in_features out_features bias=True<bias? qconfig=None

[torch.ao.nn.quantizable.modules.activation]
MultiheadAttention(torch.nn.modules.activation.MultiheadAttention)
  args embed_dim num_heads dropout=0.0 bias=True<linear_Q.bias? add_bias_kv=False<bias_k?
  args add_zero_attn=False kdim=None~=embed_dim vdim=None~=embed_dim batch_first=False &factory
  name QuantizableMultiheadAttention
[torch.ao.nn.quantizable.modules.rnn]
LSTMCell(Module)
  args input_dim<input_size hidden_dim<hidden_size bias=True &factory * split_gates=False
  name QuantizableLSTMCell
_LSTMSingleLayer(Module)
  args input_dim<cell.input_size hidden_dim<cell.hidden_size bias=True<cell.bias &factory
  args * split_gates=False<cell.split_gates
_LSTMLayer(Module)
  args input_dim<layer_fw.cell.input_size hidden_dim<layer_fw.cell.hidden_size
  args bias=True<layer_fw.cell.bias batch_first=False bidirectional=False &factory
  args * split_gates=False<layer_fw.cell.split_gates
LSTM(Module)
  args input_size hidden_size num_layers=1 bias=True batch_first=False dropout=0.0
  args bidirectional=False &factory * split_gates=False<layers.0.layer_fw.cell.split_gates
  name QuantizableLSTM

[torch.ao.nn.quantized.reference.modules.utils]
ReferenceQuantizedModule(Module)
[torch.ao.nn.quantized.reference.modules.conv]
_ConvNd(torch.nn.modules.conv._ConvNd)
Conv1d(torch.nn.modules.conv._ConvNd)
  args in_channels out_channels kernel_size stride=1~(1,) padding=0~(0,) dilation=1~(1,)
  args groups=1 bias=True<bias? padding_mode='zeros' &factory weight_qparams=None<-
  name QuantizedConv1d(Reference)
Conv2d(torch.nn.modules.conv._ConvNd)
  args in_channels out_channels kernel_size stride=1~(1,1) padding=0~(0,0) dilation=1~(1,1)
  args groups=1 bias=True<bias? padding_mode='zeros' &factory weight_qparams=None<-
  name QuantizedConv2d(Reference)
Conv3d(torch.nn.modules.conv._ConvNd)
  args in_channels out_channels kernel_size stride=1~(1,1,1) padding=0~(0,0,0)
  args dilation=1~(1,1,1) groups=1 bias=True<bias? padding_mode='zeros' &factory
  args weight_qparams=None<-
  name QuantizedConv3d(Reference)
_ConvTransposeNd(torch.nn.modules.conv._ConvTransposeNd)
ConvTranspose1d(_ConvTransposeNd)
  args in_channels out_channels kernel_size stride=1~(1,) padding=0~(0,)
  args output_padding=0~(0,) groups=1 bias=True<bias? dilation=1~(1,) padding_mode='zeros'
  args &factory weight_qparams=None<-
  name QuantizedConvTranspose1d(Reference)
ConvTranspose2d(_ConvTransposeNd)
  args in_channels out_channels kernel_size stride=1~(1,1) padding=0~(0,0)
  args output_padding=0~(0,0) groups=1 bias=True<bias? dilation=1~(1,1) padding_mode='zeros'
  args &factory weight_qparams=None<-
  name QuantizedConvTranspose2d(Reference)
ConvTranspose3d(_ConvTransposeNd)
  args in_channels out_channels kernel_size stride=1~(1,1,1) padding=0~(0,0,0)
  args output_padding=0~(0,0,0) groups=1 bias=True<bias? dilation=1~(1,1,1)
  args padding_mode='zeros' &factory weight_qparams=None<-
  name QuantizedConvTranspose3d(Reference)
[torch.ao.nn.quantized.reference.modules.linear]
Linear(torch.nn.modules.linear.Linear)
  args in_features out_features bias_=True<bias? &factory weight_qparams=None<-
  name QuantizedLinear(Reference)
[torch.ao.nn.quantized.reference.modules.sparse]
Embedding(torch.nn.modules.sparse.Embedding)
  args num_embeddings embedding_dim padding_idx=None max_norm=None norm_type=2.0
  args scale_grad_by_freq=False sparse=False _weight=None<- &factory weight_qparams=None<-
  name QuantizedEmbedding(Reference)
EmbeddingBag(torch.nn.modules.sparse.EmbeddingBag)
  args num_embeddings embedding_dim max_norm=None norm_type=2.0 scale_grad_by_freq=False
  args mode='mean' sparse=False _weight=None<- include_last_offset=False padding_idx=None
  args &factory weight_qparams=None<-
  name QuantizedEmbedding(Reference)
[torch.ao.nn.quantized.reference.modules.rnn]
RNNCellBase(torch.nn.modules.rnn.RNNCellBase)
  args input_size hidden_size bias num_chunks<- &factory weight_qparams_dict=None<-
  name QuantizedRNNCellBase(Reference)
RNNCell(RNNCellBase)
  args input_size hidden_size bias=True nonlinearity='tanh' &factory weight_qparams_dict=None<-
  name QuantizedRNNCell(Reference)
LSTMCell(RNNCellBase)
  args input_size hidden_size bias=True &factory weight_qparams_dict=None<-
  name QuantizedLSTMCell(Reference)
GRUCell(LSTMCell)
  name QuantizedGRUCell(Reference)
RNNBase(torch.nn.modules.rnn.RNNBase)
  args mode input_size hidden_size num_layers=1 bias=True batch_first=False dropout=0.0
  args bidirectional=False proj_size=0 &factory weight_qparams_dict=None<-
LSTM(RNNBase)
  args input_size hidden_size num_layers=1 bias=True batch_first=False dropout=0.0
  args bidirectional=False proj_size=0 &factory weight_qparams_dict=None<-
  name QuantizedLSTM(Reference)
GRU(RNNBase)
  args input_size hidden_size num_layers=1 bias=True batch_first=False dropout=0.0
  args bidirectional=False &factory weight_qparams_dict=None<-
  name QuantizedGRU(Reference)
"""
