"""Containers, wrappers and parametrizations: what holds other modules."""

from __future__ import annotations

ROWS = """
[torch.nn.modules.module]
Module()

[torch.nn.modules.container]
Container(Module)
  args **kwargs<*
Sequential(Module)
  args *args<*
ModuleList(Module)
  args modules=None<*
  style list
ModuleDict(Module)
  args modules=None<*
ParameterList(Module)
  args values=None<@items
  print @parameter_list
ParameterDict(Module)
  args parameters=None<@items
  print @parameter_dict

[torch.nn.parallel]
DistributedDataParallelCPU(torch.nn.parallel.distributed.DistributedDataParallel)
[torch.nn.parallel.data_parallel]
DataParallel(Module)
  args module device_ids=None output_device=None dim=0
[torch.nn.parallel.distributed]
DistributedDataParallel(Module)
  args module device_ids=None output_device=None dim=0 broadcast_buffers=None~True
  args init_sync=True<- process_group=None<- bucket_cap_mb=None<-
  args find_unused_parameters=False check_reduction=False<- gradient_as_bucket_view=False
  args static_graph=False delay_all_reduce_named_params=None<- param_to_hook_all_reduce=None<-
  args mixed_precision=None device_mesh=None<- skip_all_reduce_unused_params=False
  args bucket_cap_mb_list=None<- batched_grad_copy=False<- forward_sync_buffers=None<-

[torch.nn.utils.parametrize]
ParametrizationList(torch.nn.modules.container.ModuleList)
  args modules<* original<original|original0 unsafe=False
[torch.nn.utils.parametrizations]
_Orthogonal(Module)
  args weight<- orthogonal_map * use_trivialization=True<base?
_SpectralNorm(Module)
  args weight<- n_power_iterations=1 dim=0 eps=1e-12
_WeightNorm(Module)
  args dim=0

[torch.optim.swa_utils]
AveragedModel(Module)
  args model<module device=None<- avg_fn=None multi_avg_fn=None use_buffers=False

[torch._dynamo.eval_frame]
OptimizedModule(Module)
  args mod<_orig_mod dynamo_ctx

[torch.fx.graph_module]
GraphModule(Module)
  args root<- graph<_graph class_name='GraphModule'<_graphmodule_cls_name
  style graph
_CodeOnlyModule(Module)
  args body<-
[torch.fx._lazy_graph_module]
_LazyGraphModule(torch.fx.graph_module.GraphModule)

[torch.distributed.fsdp.fully_sharded_data_parallel]
FullyShardedDataParallel(Module)
  args module<_fsdp_wrapped_module process_group=None<- sharding_strategy=None<-
  args cpu_offload=None<- auto_wrap_policy=None<-
  args backward_prefetch=torch.distributed.fsdp.api.BackwardPrefetch.BACKWARD_PRE<-
  args mixed_precision=None<- ignored_modules=None<- param_init_fn=None<- device_id=None<-
  args sync_module_states=False<- forward_prefetch=False<- limit_all_gathers=True<-
  args use_orig_params=False<- ignored_states=None<- device_mesh=None<-
[torch.distributed.algorithms._checkpoint.checkpoint_wrapper]
ActivationWrapper(Module)
  args mod<_checkpoint_wrapped_module
CheckpointWrapper(ActivationWrapper)
  args mod<_checkpoint_wrapped_module
  args checkpoint_impl=.CheckpointImpl.NO_REENTRANT<-
  args checkpoint_fn=None<- **checkpoint_fn_kwargs<-
OffloadWrapper(ActivationWrapper)
"""
