"""A training with accelerate, which saves and restores everything that it prepared."""

from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

set_seed(0)
accelerator = Accelerator(cpu=True)
model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 1))
x = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 6, shuffle=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.7)
model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
saved = sorted(Path("runs").glob("epoch-*"))
start = 0
if saved:
    accelerator.load_state(str(saved[-1]))
    start = int(saved[-1].name[6:]) + 1
for epoch in range(start, 5):
    for inputs, target in loader:
        optimizer.zero_grad()
        accelerator.backward(nn.functional.mse_loss(model(inputs), target))
        optimizer.step()
        scheduler.step()
    accelerator.save_state(f"runs/epoch-{epoch}")
