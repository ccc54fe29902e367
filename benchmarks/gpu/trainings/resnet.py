"""ResNet-18 on random images: float16 autocast, GradScaler, cosine schedule, channels_last.

Images are flipped at random in the collate function, with torch's own generator.
BENCHMARK_CUDNN=1 lets cuDNN choose the fastest kernel and TF32, as many scripts do.
"""

import os

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SMALL = os.environ.get("BENCHMARK_SMALL") == "1"
WIDTH, SIDE, BATCH, IMAGES = (8, 32, 4, 16) if SMALL else (64, 64, 32, 128)
LOSS, AMP, SCALER, SCHEDULER_INTERVAL = "CrossEntropyLoss", "float16", True, "epoch"

if os.environ.get("BENCHMARK_CUDNN") == "1":
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        stem = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(WIDTH), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        layers, inputs = [], WIDTH
        for width in (WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH):
            layers += [Block(inputs, width, 1 if width == WIDTH else 2), Block(width, width, 1)]
            inputs = width
        self.body, self.head = nn.Sequential(*layers), nn.Linear(inputs, 10)
        self.to(memory_format=torch.channels_last)

    def forward(self, x):
        x = x.contiguous(memory_format=torch.channels_last)
        return self.head(self.body(self.stem(x)).mean((2, 3)))


def collate_flipped(rows):
    images = torch.stack([image for image, _ in rows])
    flip = torch.rand(len(images)) < 0.5
    images[flip] = images[flip].flip(-1)
    return images, torch.stack([label for _, label in rows])


def batches():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, 3, SIDE, SIDE, generator=generator)
    labels = torch.randint(10, (IMAGES,), generator=generator)
    dataset = TensorDataset(images, labels)
    return DataLoader(dataset, BATCH, shuffle=True, collate_fn=collate_flipped)


def autocast():
    return AMP


def new_optimizer(model):
    options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": True}
    return torch.optim.SGD(model.parameters(), **options)


def new_scheduler(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
