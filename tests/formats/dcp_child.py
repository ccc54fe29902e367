"""Write distributed checkpoints with real processes: `python dcp_child.py RANK WORLD FOLDER`."""

import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{folder}.store", rank=rank, world_size=world)
mesh = init_device_mesh("cpu", (world,))


def whole() -> dict:
    """The tensors before they are distributed; the same in every process."""
    torch.manual_seed(0)
    return {
        "rows": torch.randn(5, 3), "columns": torch.randn(4, 7), "deep": torch.randn(2, 3, 5, 2),
        "replicated": torch.randn(6), "half": torch.randn(9, 4).to(torch.bfloat16),
        "scalar": torch.tensor(3.5), "few": torch.randn(1, 2), "empty": torch.zeros(0, 4),
        "integers": torch.arange(10),
    }  # fmt: skip


SHARDS = {"rows": 0, "columns": 1, "deep": 2, "half": 0, "few": 0}
tensors = whole()
model = {
    name: distribute_tensor(tensor, mesh, [Shard(SHARDS[name]) if name in SHARDS else Replicate()])
    if name in SHARDS or name == "replicated"
    else tensor
    for name, tensor in tensors.items()
}
state = {"model": model, "layers": [{"w": tensors["rows"].clone()}, {"w": torch.ones(2)}],
         "epoch": 3, "name": "가", "numbers": [1, 2, 3]}  # fmt: skip
dcp.save(state, checkpoint_id=folder)
if rank == 0:
    torch.save({"model": tensors, "layers": state["layers"]}, f"{folder}.truth.pt")
dist.destroy_process_group()
