"""Activations, attention, and the adaptive softmax."""

from __future__ import annotations

ROWS = """
[torch.nn.modules.activation]
Threshold(Module)
  args threshold value inplace=False
  print threshold={threshold}, value={value}, [inplace]inplace=True
  marks threshold value inplace
ReLU(Module)
  args inplace=False
  print [inplace]inplace=True
RReLU(Module)
  args lower=0.125 upper=0.3333333333333333 inplace=False
  print lower={lower}, upper={upper}, [inplace]inplace=True
  marks lower upper inplace
Hardtanh(Module)
  args min_val=-1.0 max_val=1.0 inplace=False min_value=None<- max_value=None<-
  print min_val={min_val}, max_val={max_val}, [inplace]inplace=True
  marks min_val max_val inplace
ReLU6(ReLU)
  marks min_val=0.0 max_val=6.0 inplace
Sigmoid(Module)
Hardsigmoid(Module)
  args inplace=False
Tanh(Module)
SiLU(ReLU)
Mish(ReLU)
Hardswish(Module)
  args inplace=False
ELU(Module)
  args alpha=1.0 inplace=False
  print alpha={alpha}, [inplace]inplace=True
CELU(ELU)
SELU(ReLU)
GLU(Module)
  args dim=-1
  print dim={dim}
GELU(Module)
  args approximate='none'
  print approximate={approximate!r}
Hardshrink(Module)
  args lambd=0.5
  print {lambd}
LeakyReLU(Module)
  args negative_slope=0.01 inplace=False
  print negative_slope={negative_slope}, [inplace]inplace=True
LogSigmoid(Module)
Softplus(Module)
  args beta=1.0 threshold=20.0
  print beta={beta}, threshold={threshold}
Softshrink(Hardshrink)
MultiheadAttention(Module)
  args embed_dim num_heads dropout=0.0 bias=True<in_proj_bias? add_bias_kv=False<bias_k?
  args add_zero_attn=False kdim=None~=embed_dim vdim=None~=embed_dim batch_first=False &factory
  fill _qkv_same_embed_dim=True
  marks embed_dim num_heads dropout head_dim kdim vdim in_proj_weight in_proj_bias out_proj
PReLU(Module)
  args num_parameters=1 init=0.25<- &factory
  print num_parameters={num_parameters}
Softsign(Module)
Tanhshrink(Module)
Softmin(Module)
  args dim=None
  print dim={dim}
  fill dim=None
Softmax(Softmin)
Softmax2d(Module)
LogSoftmax(Softmin)

[torch.nn.modules.adaptive]
AdaptiveLogSoftmaxWithLoss(Module)
  args in_features n_classes cutoffs<@cutoffs div_value=4.0 head_bias=False &factory
  marks in_features n_classes cutoffs div_value shortlist_size n_clusters head_size head tail
"""
