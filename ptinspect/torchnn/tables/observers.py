"""Observers, fake quantization and the tools around them (torch.ao.quantization, .ns, .pruning)."""

from __future__ import annotations

ROWS = """
[torch.ao.quantization.observer]
ObserverBase(Module)
  args dtype is_dynamic=False
UniformQuantizationObserverBase(ObserverBase)
  args dtype=torch.quint8 qscheme=torch.per_tensor_affine reduce_range=False
  args quant_min=None<@quantized_range quant_max=None<@quantized_range factory_kwargs=None<-
  args eps=1.1920928955078125e-07<- is_dynamic=False **kwargs<-
MinMaxObserver(UniformQuantizationObserverBase)
  print min_val={min_val}, max_val={max_val}
MovingAverageMinMaxObserver(MinMaxObserver)
  args averaging_constant=0.01 dtype=torch.quint8 qscheme=torch.per_tensor_affine
  args reduce_range=False quant_min=None<@quantized_range quant_max=None<@quantized_range
  args eps=1.1920928955078125e-07<- is_dynamic=False **kwargs<-
PerChannelMinMaxObserver(MinMaxObserver)
  args ch_axis=0 dtype=torch.quint8 qscheme=torch.per_channel_affine reduce_range=False
  args quant_min=None<@quantized_range quant_max=None<@quantized_range factory_kwargs=None<-
  args eps=1.1920928955078125e-07<- is_dynamic=False **kwargs<-
MovingAveragePerChannelMinMaxObserver(PerChannelMinMaxObserver)
  args averaging_constant=0.01 ch_axis=0 dtype=torch.quint8 qscheme=torch.per_channel_affine
  args reduce_range=False quant_min=None<@quantized_range quant_max=None<@quantized_range
  args eps=1.1920928955078125e-07<- is_dynamic=False **kwargs<-
HistogramObserver(MinMaxObserver)
  args bins=2048 dtype=torch.quint8 qscheme=torch.per_tensor_affine reduce_range=False
  args quant_min=None<@quantized_range quant_max=None<@quantized_range factory_kwargs=None<-
  args eps=1.1920928955078125e-07<- is_dynamic=False **kwargs<-
FixedQParamsObserver(ObserverBase)
  args scale zero_point dtype=torch.quint8 qscheme=torch.per_tensor_affine quant_min=0
  args quant_max=255 is_dynamic=False **kwargs<-
PlaceholderObserver(ObserverBase)
  args dtype=torch.float32 custom_op_name=''<custom_op compute_dtype=None<- quant_min=None
  args quant_max=None qscheme=None~torch.per_tensor_affine eps=None~1.1920928955078125e-07
  args is_dynamic=False
  print dtype={dtype}, is_dynamic={is_dynamic}
RecordingObserver(ObserverBase)
  args dtype=torch.quint8
NoopObserver(ObserverBase)
  args dtype=torch.float16 custom_op_name=''<custom_op
ReuseInputObserver(ObserverBase)
  args
AffineQuantizedObserverBase(Module)
  args mapping_type target_dtype granularity quant_min=None quant_max=None eps=None
  args scale_dtype=None zero_point_dtype=None preserve_zero=True
  args zero_point_domain=torch.ao.quantization.observer.ZeroPointDomain.INT **kwargs<-

[torch.ao.quantization]
_DerivedObserverOrFakeQuantize(torch.ao.quantization.observer.ObserverBase)
  args dtype obs_or_fqs derive_qparams_fn quant_min=None quant_max=None qscheme=None ch_axis=None

[torch.ao.quantization.fake_quantize]
FakeQuantizeBase(Module)
FakeQuantize(FakeQuantizeBase)
  args observer=torch.ao.quantization.observer.MovingAverageMinMaxObserver<@observer
  args quant_min=None<- quant_max=None<- is_dynamic=False **observer_kwargs<-
  print fake_quant_enabled={fake_quant_enabled}, observer_enabled={observer_enabled},
  print quant_min={activation_post_process.quant_min},
  print quant_max={activation_post_process.quant_max}, dtype={dtype}, qscheme={qscheme},
  print ch_axis={ch_axis}, scale={scale}, zero_point={zero_point}
FixedQParamsFakeQuantize(FakeQuantize)
  args observer<_observer_ctr
  print fake_quant_enabled={fake_quant_enabled}, observer_enabled={observer_enabled},
  print scale={scale}, zero_point={zero_point}, dtype={dtype},
  print quant_min={activation_post_process.quant_min},
  print quant_max={activation_post_process.quant_max}, qscheme={qscheme}
FusedMovingAvgObsFakeQuantize(FakeQuantize)
  args observer=torch.ao.quantization.observer.MovingAverageMinMaxObserver<@observer
  args quant_min=0 quant_max=255 **observer_kwargs<-
  print fake_quant_enabled={fake_quant_enabled}, observer_enabled={observer_enabled},
  print scale={scale}, zero_point={zero_point}, dtype={dtype},
  print quant_min={activation_post_process.quant_min},
  print quant_max={activation_post_process.quant_max}, qscheme={qscheme},
  print reduce_range={activation_post_process.reduce_range}
[torch.ao.quantization._learnable_fake_quantize]
_LearnableFakeQuantize(torch.ao.quantization.fake_quantize.FakeQuantizeBase)
  args observer<@observer quant_min=0 quant_max=255 scale=1.0<- zero_point=0.0<-
  args channel_len=-1<- use_grad_scaling=False **observer_kwargs<-

[torch.ao.quantization.stubs]
QuantStub(Module)
  args qconfig=None
DeQuantStub(QuantStub)
QuantWrapper(Module)
  args module

[torch.ao.quantization.fx._equalize]
_InputEqualizationObserver(Module)
  args dtype=torch.quint8 qscheme=torch.per_tensor_affine quant_min=None<- quant_max=None<-
  args factory_kwargs=None<-
_WeightEqualizationObserver(_InputEqualizationObserver)
  args dtype=torch.qint8 qscheme=torch.per_tensor_affine quant_min=None<- quant_max=None<-
  args factory_kwargs=None<-
[torch.ao.quantization.fx._model_report.model_report_observer]
ModelReportObserver(torch.ao.quantization.observer.ObserverBase)
  args ch_axis=1 comp_percentile=0.9<-
[torch.ao.quantization.fx.graph_module]
FusedGraphModule(torch.fx.graph_module.GraphModule)
  args root<- graph<_graph preserved_attr_names
ObservedGraphModule(FusedGraphModule)
ObservedStandaloneGraphModule(FusedGraphModule)
QuantizedGraphModule(FusedGraphModule)

[torch.ao.ns._numeric_suite]
Logger(Module)
ShadowLogger(Logger)
OutputLogger(Logger)
Shadow(Module)
  args q_module<orig_module float_module<shadow_module logger_cls<-
[torch.ao.quantization._correct_bias]
MeanShadowLogger(torch.ao.ns._numeric_suite.Logger)
[torch.ao.ns._numeric_suite_fx]
OutputLogger(Module)
  args ref_node_name prev_node_name model_name ref_name prev_node_target_type
  args ref_node_target_type results_type index_within_arg index_of_arg fqn qconfig_str=''
  style fields
OutputComparisonLogger(OutputLogger)
  args *args<- **kwargs<-

[torch.ao.pruning.sparsifier.utils]
FakeSparsity(Module)
  args mask
[torch.ao.pruning._experimental.pruner.parametrization]
FakeStructuredSparsity(Module)
  args mask
[torch.ao.pruning._experimental.data_sparsifier.base_data_sparsifier]
_Container(Module)
"""
