"""A training as people write it: it saves after each epoch, and goes on from the last file."""

import os
from pathlib import Path

import torch
from torch import nn

EPOCHS = 5

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 1))
ema = torch.optim.swa_utils.AveragedModel(
    model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
)
x = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
data = list(zip(x, x.sum(1, keepdim=True), strict=True))
loader = torch.utils.data.DataLoader(data, 6, shuffle=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
start = 0
saved = sorted(Path("runs").glob("*.pt"))
if saved:
    checkpoint = torch.load(saved[-1])
    model.load_state_dict(checkpoint["model"])
    ema.load_state_dict(checkpoint["ema"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    torch.set_rng_state(checkpoint["rng"])
    start = checkpoint["epoch"] + 1
os.makedirs("runs", exist_ok=True)
for epoch in range(start, EPOCHS):
    for inputs, target in loader:
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), target).backward()
        optimizer.step()
        ema.update_parameters(model)
    scheduler.step()
    state = {
        "epoch": epoch,
        "model": model.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rng": torch.get_rng_state(),
    }
    torch.save(state, f"runs/{epoch}.pt.tmp")
    os.replace(f"runs/{epoch}.pt.tmp", f"runs/{epoch}.pt")
