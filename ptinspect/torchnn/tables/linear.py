"""Linear layers, embeddings, and what reshapes their input."""

from __future__ import annotations

ROWS = """
[torch.nn.modules.linear]
Identity(Module)
  args *args<- **kwargs<-
Linear(Module)
  args in_features out_features bias=True<bias? &factory
  print in_features={in_features}, out_features={out_features}, bias={bias?}
  marks in_features out_features weight bias
NonDynamicallyQuantizableLinear(Linear)
  marks
Bilinear(Module)
  args in1_features in2_features out_features bias=True<bias? &factory
  print in1_features={in1_features}, in2_features={in2_features},
  print out_features={out_features}, bias={bias?}
  marks in1_features in2_features out_features weight bias
LazyLinear(Linear)
  args out_features bias=True<bias? &factory
  marks

[torch.nn.modules.sparse]
Embedding(Module)
  args num_embeddings embedding_dim padding_idx=None max_norm=None norm_type=2.0
  args scale_grad_by_freq=False sparse=False _weight=None<- _freeze=False<- &factory
  print {num_embeddings}, {embedding_dim}, [padding_idx!None]padding_idx={padding_idx},
  print [max_norm!None]max_norm={max_norm}, [norm_type!=2]norm_type={norm_type},
  print [scale_grad_by_freq!False]scale_grad_by_freq={scale_grad_by_freq},
  print [sparse!False]sparse=True
  marks num_embeddings embedding_dim padding_idx max_norm norm_type scale_grad_by_freq sparse
  marks weight
EmbeddingBag(Module)
  args num_embeddings embedding_dim max_norm=None norm_type=2.0 scale_grad_by_freq=False
  args mode='mean' sparse=False _weight=None<- include_last_offset=False padding_idx=None
  args &factory
  print {num_embeddings!r}, {embedding_dim!r}, [max_norm!None]max_norm={max_norm!r},
  print [norm_type!=2]norm_type={norm_type!r},
  print [scale_grad_by_freq!False]scale_grad_by_freq={scale_grad_by_freq!r}, mode={mode!r},
  print [padding_idx!None]padding_idx={padding_idx!r}
  marks num_embeddings embedding_dim max_norm norm_type scale_grad_by_freq mode sparse
  marks include_last_offset padding_idx weight

[torch.nn.modules.distance]
PairwiseDistance(Module)
  args p=2.0<norm eps=1e-06 keepdim=False
  marks norm eps keepdim
CosineSimilarity(Module)
  args dim=1 eps=1e-08

[torch.nn.modules.dropout]
_DropoutNd(Module)
  args p=0.5 inplace=False
  print p={p}, inplace={inplace}
Dropout(_DropoutNd)
Dropout1d(_DropoutNd)
Dropout2d(_DropoutNd)
Dropout3d(_DropoutNd)
AlphaDropout(_DropoutNd)
FeatureAlphaDropout(_DropoutNd)

[torch.nn.modules.flatten]
Flatten(Module)
  args start_dim=1 end_dim=-1
  print start_dim={start_dim}, end_dim={end_dim}
Unflatten(Module)
  args dim unflattened_size
  print dim={dim}, unflattened_size={unflattened_size}
"""
