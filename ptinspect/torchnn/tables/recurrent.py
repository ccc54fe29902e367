"""Recurrent layers and transformers."""

from __future__ import annotations

ROWS = """
[torch.nn.modules.rnn]
RNNBase(Module)
  args mode input_size hidden_size num_layers=1 bias=True batch_first=False dropout=0.0
  args bidirectional=False proj_size=0 &factory
  print {input_size}, {hidden_size}, [proj_size!=0]proj_size={proj_size},
  print [num_layers!=1]num_layers={num_layers}, [bias!True]bias={bias},
  print [batch_first!False]batch_first={batch_first}, [dropout!=0]dropout={dropout},
  print [bidirectional!False]bidirectional={bidirectional}
  fill proj_size=0
RNN(RNNBase)
  args input_size hidden_size num_layers=1 nonlinearity='tanh'<@nonlinearity bias=True
  args batch_first=False dropout=0.0 bidirectional=False &factory
  marks mode='RNN_TANH' input_size hidden_size num_layers bias batch_first dropout bidirectional
LSTM(RNNBase)
  args input_size hidden_size num_layers=1 bias=True batch_first=False dropout=0.0
  args bidirectional=False proj_size=0 &factory
  marks mode='LSTM' input_size hidden_size num_layers bias batch_first dropout bidirectional
GRU(RNNBase)
  args input_size hidden_size num_layers=1 bias=True batch_first=False dropout=0.0
  args bidirectional=False &factory
  marks mode='GRU' input_size hidden_size num_layers bias batch_first dropout bidirectional
RNNCellBase(Module)
  args input_size hidden_size bias num_chunks<- &factory
  print {input_size}, {hidden_size}, [bias!True]bias={bias},
  print [nonlinearity!='tanh']nonlinearity={nonlinearity}
RNNCell(RNNCellBase)
  args input_size hidden_size bias=True nonlinearity='tanh' &factory
  marks input_size hidden_size bias nonlinearity weight_ih weight_hh bias_ih bias_hh
LSTMCell(RNNCellBase)
  args input_size hidden_size bias=True &factory
  marks input_size hidden_size bias weight_ih weight_hh bias_ih bias_hh
GRUCell(LSTMCell)

[torch.nn.modules.transformer]
Transformer(Module)
  args d_model=512 nhead=8 num_encoder_layers=6<#encoder.layers
  args num_decoder_layers=6<#decoder.layers
  args dim_feedforward=2048<@of_a_layer dropout=0.1<@of_a_layer
  args activation=torch.nn.functional.relu<@of_a_layer custom_encoder=None<@custom_coder
  args custom_decoder=None<@custom_coder layer_norm_eps=1e-05<encoder.norm.eps|decoder.norm.eps
  args batch_first=False norm_first=False<@of_a_layer
  args bias=True<encoder.norm.bias?|decoder.norm.bias? &factory
  marks encoder decoder d_model nhead batch_first
TransformerEncoder(Module)
  args encoder_layer<layers.0 num_layers norm=None enable_nested_tensor=True mask_check=True
  marks layers num_layers norm enable_nested_tensor use_nested_tensor mask_check
TransformerDecoder(Module)
  args decoder_layer<layers.0 num_layers norm=None
  marks layers num_layers norm
TransformerEncoderLayer(Module)
  args d_model<self_attn.embed_dim nhead<self_attn.num_heads
  args dim_feedforward=2048<linear1.out_features dropout=0.1<dropout.p
  args activation=torch.nn.functional.relu layer_norm_eps=1e-05<norm1.eps
  args batch_first=False<self_attn.batch_first norm_first=False bias=True<linear1.bias? &factory
  fill activation=torch.nn.functional.relu
  marks self_attn linear1 dropout linear2 norm1 norm2 dropout1 dropout2 activation
TransformerDecoderLayer(TransformerEncoderLayer)
  marks self_attn multihead_attn linear1 dropout linear2 norm1 norm2 norm3 dropout1 dropout2
  marks dropout3 activation
"""
