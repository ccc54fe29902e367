"""Write safetensors with real processes: `python hf_child.py RANK WORLD FOLDER [consolidate]`."""

import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{folder}.store", rank=rank, world_size=world)
mesh = init_device_mesh("cpu", (world,))
torch.manual_seed(0)
tensors = {
    "rows": torch.randn(5, 3), "columns": torch.randn(4, 7), "deep": torch.randn(2, 3, 5, 2),
    "half": torch.randn(9, 4).to(torch.bfloat16), "few": torch.randn(1, 2),
    "replicated": torch.randn(6), "scalar": torch.tensor(3.5), "layers.10.w": torch.ones(2),
    "layers.9.w": torch.zeros(3),
}  # fmt: skip
SHARDS = {"rows": 0, "columns": 1, "deep": 2, "half": 0, "few": 0}
if "consolidate" not in sys.argv:  # torch cannot consolidate these
    tensors |= {"integers": torch.arange(10), "empty": torch.zeros(0, 4)}
state = {
    name: distribute_tensor(tensor, mesh, [Shard(SHARDS[name]) if name in SHARDS else Replicate()])
    for name, tensor in tensors.items()
}
numbers = {name: 1 + (name > "h") for name in tensors}
writer = dcp.HuggingFaceStorageWriter(
    folder, fqn_to_index_mapping=numbers, save_distributed=True,
    enable_consolidation="consolidate" in sys.argv,
)  # fmt: skip
dcp.save(state, storage_writer=writer)
if rank == 0:
    torch.save(tensors, f"{folder}.truth.pt")
dist.destroy_process_group()
