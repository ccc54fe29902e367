"""Write a file per rank with real processes: `python ranks_child.py KIND RANK WORLD FOLDER`.

KIND is "dtensor" (placements of all kinds), "fsdp" (FSDP2 over tensor parallelism, on a mesh of
WORLD / 2 by 2) or "sharded" (ShardedTensor). Rank 0 writes the whole tensors to truth.pt.
"""

import sys
import warnings

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

kind, rank, world, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
warnings.simplefilter("ignore")
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
torch.manual_seed(0)


def placed() -> dict:
    mesh = init_device_mesh("cpu", (world,))
    tensors = {
        "rows": (torch.randn(5, 3), Shard(0)), "columns": (torch.randn(4, 7), Shard(1)),
        "deep": (torch.randn(2, 3, 5, 2), Shard(2)), "few": (torch.randn(1, 2), Shard(0)),
        "half": (torch.randn(9, 4).to(torch.bfloat16), Shard(0)),
        "same": (torch.randn(6), Replicate()),
    }  # fmt: skip
    state = {key: distribute_tensor(tensor, mesh, [how]) for key, (tensor, how) in tensors.items()}
    state["weight"] = torch.nn.Parameter(distribute_tensor(torch.randn(3, 2), mesh, [Shard(0)]))
    plain = {"count": torch.ones(1), "scalar": torch.tensor(3.5), "name": "가"}
    plain["conjugate"] = torch.randn(3, dtype=torch.complex64).conj()
    plain["negative"] = torch.randn(3, dtype=torch.complex64).conj().imag
    plain |= {"process": (rank, 0), "nan": float("nan")}
    plain["frozen"] = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    return {"model": state | plain, "groups": [{"lr": 0.1, "step": torch.tensor([7])}]}


def trained() -> dict:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        parallelize_module,
    )

    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("dp", "tp"))
    model = torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.ReLU(), torch.nn.Linear(10, 4))
    model.register_buffer("one", torch.ones(1))
    parallelize_module(model, mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    fully_shard(model, mesh=mesh["dp"])
    return model.state_dict()


def sharded() -> dict:
    from torch.distributed._shard import sharded_tensor

    whole = torch.arange(15.0).reshape(5, 3)
    step = -(-5 // world)
    start, stop = min(rank * step, 5), min(rank * step + step, 5)
    shard = sharded_tensor.Shard.from_tensor_and_offsets(
        whole[start:stop].clone(), [start, 0], rank
    )
    return {"w": sharded_tensor.init_from_local_shards([shard], 5, 3), "one": torch.ones(1)}


state = {"dtensor": placed, "fsdp": trained, "sharded": sharded}[kind]()
torch.save(state, f"{folder}/model_world_size_{world}_rank_{rank}.pt")


def whole(value: object) -> object:
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, DTensor):
        return value.full_tensor().detach()
    return torch.arange(15.0).reshape(5, 3) if type(value).__name__ == "ShardedTensor" else value


truth = whole(state)
if rank == 0:
    torch.save(truth, f"{folder}/truth.pt")
dist.barrier()
dist.destroy_process_group()
