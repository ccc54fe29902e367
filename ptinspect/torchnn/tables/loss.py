"""Losses."""

from __future__ import annotations

ROWS = """
[torch.nn.modules.loss]
_Loss(Module)
  args size_average=None<- reduce=None<- reduction='mean'
_WeightedLoss(_Loss)
  args weight=None size_average=None<- reduce=None<- reduction='mean'
L1Loss(_Loss)
NLLLoss(_WeightedLoss)
  args weight=None size_average=None<- ignore_index=-100 reduce=None<- reduction='mean'
NLLLoss2d(NLLLoss)
PoissonNLLLoss(_Loss)
  args log_input=True full=False size_average=None<- eps=1e-08 reduce=None<- reduction='mean'
  marks log_input full eps reduction
GaussianNLLLoss(_Loss)
  args * full=False eps=1e-06 reduction='mean'
  marks full eps reduction
KLDivLoss(_Loss)
  args size_average=None<- reduce=None<- reduction='mean' log_target=False
MSELoss(_Loss)
BCELoss(_WeightedLoss)
BCEWithLogitsLoss(_Loss)
  args weight=None size_average=None<- reduce=None<- reduction='mean' pos_weight=None
  marks weight reduction pos_weight
HingeEmbeddingLoss(_Loss)
  args margin=1.0 size_average=None<- reduce=None<- reduction='mean'
MultiLabelMarginLoss(_Loss)
SmoothL1Loss(_Loss)
  args size_average=None<- reduce=None<- reduction='mean' beta=1.0
HuberLoss(_Loss)
  args reduction='mean' delta=1.0
SoftMarginLoss(_Loss)
CrossEntropyLoss(_WeightedLoss)
  args weight=None size_average=None<- ignore_index=-100 reduce=None<- reduction='mean'
  args label_smoothing=0.0
  marks weight ignore_index reduction label_smoothing
LinearCrossEntropyLoss(_WeightedLoss)
  args in_features<linear.in_features num_classes * out_features=()
  args bias=False<linear.bias? &factory reduction='mean' weight=None ignore_index=None
  args label_smoothing=0.0 options=None
  print in_features={linear.in_features}, num_classes={num_classes},
  print out_features={out_features}, bias={linear.bias?}, reduction={reduction},
  print ignore_index={ignore_index}, label_smoothing={label_smoothing}, options={options}
  marks linear num_classes out_features reduction weight ignore_index label_smoothing options
MultiLabelSoftMarginLoss(_WeightedLoss)
CosineEmbeddingLoss(_Loss)
  args margin=0.0 size_average=None<- reduce=None<- reduction='mean'
MarginRankingLoss(CosineEmbeddingLoss)
MultiMarginLoss(_WeightedLoss)
  args p=1 margin=1.0 weight=None size_average=None<- reduce=None<- reduction='mean'
  marks p margin weight reduction
TripletMarginLoss(_Loss)
  args margin=1.0 p=2.0 eps=1e-06 swap=False size_average=None<- reduce=None<-
  args reduction='mean'
  marks margin p eps swap reduction
TripletMarginWithDistanceLoss(_Loss)
  args * distance_function=None<@distance_function margin=1.0 swap=False reduction='mean'
  marks distance_function margin swap reduction
CTCLoss(_Loss)
  args blank=0 reduction='mean' zero_infinity=False
  marks blank reduction zero_infinity
"""
