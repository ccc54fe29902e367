"""A two-layer LSTM (cuDNN on CUDA) in float32, with Adam.

With BENCHMARK_RNN_DROPOUT=0.3 cuDNN drops out between the layers. It keeps the state of that in no
generator.
"""

import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SMALL = os.environ.get("BENCHMARK_SMALL") == "1"
WIDTH, LENGTH, BATCH, ROWS = (16, 8, 4, 16) if SMALL else (256, 64, 32, 128)
DROPOUT = float(os.environ.get("BENCHMARK_RNN_DROPOUT", "0"))
LOSS, AMP, SCALER, SCHEDULER_INTERVAL = "MSELoss", None, False, "epoch"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, WIDTH, 2, batch_first=True, dropout=DROPOUT)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


def batches():
    times = torch.arange(ROWS * LENGTH, dtype=torch.float32).reshape(ROWS, LENGTH, 1) / 10
    waves = torch.sin(times * torch.arange(1, 9))
    return DataLoader(TensorDataset(waves, torch.cos(times)), BATCH, shuffle=True)


def new_optimizer(model):
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def new_scheduler(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 3)
