"""A training with Lightning's own loop and checkpoints."""

from glob import glob

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(DROPOUT), nn.Linear(8, 1))

    def training_step(self, batch, index):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.7)]


DROPOUT = 0.0
pl.seed_everything(0)
x = torch.randn(24, 4)
loader = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), 6)
trainer = pl.Trainer(
    max_epochs=5,
    accelerator="cpu",
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[pl.callbacks.ModelCheckpoint("runs", save_top_k=-1, save_last=True)],
)
trainer.fit(Net(), loader, ckpt_path="last" if glob("runs/last.ckpt") else None)
