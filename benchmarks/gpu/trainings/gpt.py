"""A small GPT: attention, dropout, tied head, bfloat16 autocast, fused AdamW, warm-up and cosine.

BENCHMARK_SDPA=math uses the only attention kernel whose gradient is deterministic.
BENCHMARK_DROPOUT=0 switches dropout off.
"""

import contextlib
import math
import os

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, TensorDataset

SMALL = os.environ.get("BENCHMARK_SMALL") == "1"
LAYERS, WIDTH, HEADS, LENGTH, WORDS, BATCH, ROWS = (
    (2, 32, 2, 16, 64, 4, 16) if SMALL else (6, 512, 8, 512, 4096, 8, 32)
)
DROPOUT = float(os.environ.get("BENCHMARK_DROPOUT", "0.1"))
MATH = os.environ.get("BENCHMARK_SDPA") == "math"
LOSS, AMP, SCALER, SCHEDULER_INTERVAL = "CrossEntropyLoss", "bfloat16", False, "batch"


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x):
        rows, length, _ = x.shape
        qkv = self.qkv(self.norm1(x)).view(rows, length, 3, HEADS, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        dropout = DROPOUT if self.training else 0.0
        with sdpa_kernel(SDPBackend.MATH) if MATH else contextlib.nullcontext():
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        x = x + self.dropout(self.out(y.transpose(1, 2).reshape(rows, length, WIDTH)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(*[Block() for _ in range(LAYERS)])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x):
        x = self.words(x) + self.positions.weight[: x.shape[1]]
        return self.head(self.norm(self.blocks(x))).transpose(1, 2)


def batches():
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(WORDS, (ROWS, LENGTH + 1), generator=generator)
    return DataLoader(TensorDataset(text[:, :-1], text[:, 1:]), BATCH, shuffle=True)


def autocast():
    return AMP


def make_optimizer(model):
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), fused=True)


def make_scheduler(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / 4, 0.5 + 0.5 * math.cos(math.pi * step / 64))
    )


new_optimizer, new_scheduler = make_optimizer, make_scheduler
