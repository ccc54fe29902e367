"""A training of two processes: torchrun --nproc-per-node 2 train.py."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(rank)
model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1)))
x = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
data = TensorDataset(x, x.sum(1, keepdim=True))
sampler = DistributedSampler(data, seed=3)
loader = DataLoader(data, 3, sampler=sampler)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
start = 0
saved = sorted(Path("runs").glob("*.pt"))
dist.barrier()
if saved:
    checkpoint = torch.load(saved[-1])
    model.module.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    start = checkpoint["epoch"] + 1
os.makedirs("runs", exist_ok=True)
for epoch in range(start, 4):
    sampler.set_epoch(epoch)
    for inputs, target in loader:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), target).backward()
        optimizer.step()
    if rank == 0:
        state = {"epoch": epoch, "model": model.module.state_dict()}
        torch.save({**state, "optimizer": optimizer.state_dict()}, f"runs/{epoch}.pt")
    dist.barrier()
dist.destroy_process_group()
