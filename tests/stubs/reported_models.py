"""Small files of kinds that users reported: `FILES`, by name.

Run as a script with a folder, it saves them there, with classes of a module `reported.parts`, and
prints the names.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections import OrderedDict

import numpy as np
import torch
from torch import fx, nn

FILES = {}


def saved(build):
    """Adds what a function returns to the files."""
    FILES[build.__name__] = build
    return build


class Net(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.fc(x)


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.kind = "conv"
        self.conv = nn.Conv2d(channels, channels, 1)


class Stack(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


class Tracer(fx.Tracer):
    pass


def activation(x):
    return x


@saved
def set_from_outside():
    """A program numbers the layers, as YOLO does."""
    model = Stack(Block(1), Block(2), Block(3))
    model.layers[1].f, model.layers[1].i = -1, 1
    model.layers[2].f, model.layers[2].i = [-1, 0], None
    return model


@saved
def evaluated():
    return Stack(Block(1), Block(2)).eval()


@saved
def compiled():
    return torch.compile(Net())


@saved
def functions():
    return Net(
        act=torch.nn.functional.relu, own=activation, method=torch.Tensor.relu,
        table={"a": torch.sigmoid, "b": torch.nn.functional.gelu},
    )  # fmt: skip


@saved
def lazy():
    return Stack(nn.LazyLinear(3), nn.LazyBatchNorm2d())


@saved
def random_state():
    return Net(rng=np.random.RandomState(0))


@saved
def generator():
    return Net(rng=np.random.default_rng(0))


@saved
def logger():
    return {"log": logging.getLogger("x"), "model": Net().state_dict()}


@saved
def tracer():
    model = Stack(nn.Linear(2, 2))
    return fx.GraphModule(model, Tracer().trace(model))


@saved
def tensor_and_prefix():
    """A 4-bit file of bitsandbytes."""
    return OrderedDict({
        "fc.weight": torch.zeros(4, 1, dtype=torch.uint8),
        "fc.weight.absmax": torch.ones(1),
        "fc.weight.quant_state.bitsandbytes__nf4": torch.zeros(10, dtype=torch.uint8),
        "fc.bias": torch.ones(2),
        "norm": torch.ones(2),
        "norm.scale": torch.ones(3),
    })  # fmt: skip


@saved
def quantized_tensors():
    warnings.simplefilter("ignore")
    rows = torch.ones(2), torch.zeros(2, dtype=torch.long)
    return OrderedDict({
        "w": torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8),
        "b.x": torch.quantize_per_channel(torch.ones(3, 2), *rows, 1, torch.quint8),
        "scalar": torch.quantize_per_tensor(torch.tensor(1.0), 0.1, 0, torch.qint32),
        "c": torch.ones(2),
    })  # fmt: skip


@saved
def tied_tokens():
    tokens = torch.ones(50, 8)
    return OrderedDict({"tok.weight": tokens, "l.weight": torch.ones(8, 8), "head.weight": tokens})


@saved
def frame():
    """What the stand-ins of pandas return."""
    import pandas

    return {"frame": pandas.DataFrame({"a": [1, 2]}), "model": Net().state_dict()}


@saved
def bound_method():
    return Net().state_dict


@saved
def bound_method_of_torch():
    return nn.Linear(2, 2).state_dict


@saved
def data_parallel():
    """It is loaded only where there is a process group."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
    return nn.parallel.DistributedDataParallel(nn.Linear(2, 2))


@saved
def not_copied():
    """Values that torch does not copy into a dense tensor, though it loads them."""
    warnings.simplefilter("ignore")
    return OrderedDict({
        "meta": torch.ones(2, 2, device="meta"),
        "sparse": torch.ones(2, 2).to_sparse(),
        "rows": torch.ones(2, 2).to_sparse_csr(),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "fc.weight": torch.ones(2, 2),
    })  # fmt: skip


@saved
def unwritten_numbers():
    model = Net()
    model.register_buffer("table", torch.rand(30, 30), persistent=False)
    return model


def main():
    sys.modules["reported"] = sys.modules["reported.parts"] = sys.modules["__main__"]
    for thing in (Net, Block, Stack, Tracer, activation):
        thing.__module__ = "reported.parts"
    for name, build in FILES.items():
        try:
            torch.save(build(), os.path.join(sys.argv[1], f"{name}.pt"))
        except ModuleNotFoundError:  # pandas
            continue
        print(name)


if __name__ == "__main__":
    main()
