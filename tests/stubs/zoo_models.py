"""Small models that have what was wrong in stubs of real ones: `MODELS`, by name.

Run as a script with a folder, it saves them there as classes of a module `zoo_models.parts`, and
prints the names.
"""

from __future__ import annotations

import functools
import os
import sys

import torch
from torch import nn

MODELS = {}


def model(build):
    """Adds what a function makes to the models."""
    MODELS[build.__name__] = build
    return build


class Part(nn.Module):
    """Whatever it is given, as children and attributes."""

    def __init__(self, **members):
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)


class Block(nn.Module):
    def __init__(self, size, norm):
        super().__init__()
        self.norm1 = nn.LayerNorm(size) if norm else nn.Identity()
        self.norm2 = nn.LayerNorm(size) if norm else nn.Identity()
        self.act = nn.ReLU() if norm else nn.Linear(size, size)


class Stage(nn.Module):
    def __init__(self, size, norm, depth):
        super().__init__()
        self.blocks = nn.Sequential(*[Block(size, norm) for _ in range(depth)])


class Root(nn.Module):
    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


@model
def norms():
    """Children that vary as a whole, the same way under two names and in loops."""
    return Root(stages=nn.ModuleList([Stage(2, False, 3), Stage(4, True, 3), Stage(4, True, 2)]))


@model
def empty_places():
    """A child and a parameter that are None in some instances, and have their place all the
    same."""
    first, second = Part(conv=nn.Linear(1, 1)), Part(conv=nn.Identity())
    first.add_module("fusion", None)
    first.register_parameter("gate", None)
    second.fusion, second.gate = nn.ReLU(), nn.Parameter(torch.ones(1))
    for part in (first, second):
        part.up = nn.Upsample(scale_factor=2.0)
        part.register_parameter("after", nn.Parameter(torch.ones(1)))
    return Root(parts=nn.ModuleList([first, second]))


@model
def functions_in_part():
    """functools.partial of a function of torch that has no Python source."""
    return Root(mix=Part(fourier=functools.partial(torch.fft.fftn, dim=(1, 2)), fft=torch.fft.rfft))


class Quantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x


@model
def methods_that_modules_have_too():
    """`apply` is a name of every module; a class that is none needs it in its stub."""
    return Part(quantize=Quantize.apply, fc=nn.Linear(1, 1))


@model
def marked_everywhere():
    """Every module has the same attribute, torch's own too."""
    made = Root(
        body=nn.Sequential(nn.Linear(1, 1), Part(fc=nn.Linear(1, 1)), nn.Linear(1, 1)),
        heads=nn.ModuleList([nn.Identity(), nn.Identity()]),
    )
    for module in made.modules():
        module.is_initialized = True
    return made


@model
def long_ways():
    """What is set at the end has a target that fills a line, or more."""
    inner = nn.Linear(2, 2)
    inner.mark, inner.large = "x", 1e22
    far_name = "a_name_that_together_with_what_is_made_is_too_long_for_a_line_of_it"
    quantized = torch.ao.nn.quantized.FloatFunctional()
    for name in ("a_rather_long_name", "another_rather_long_name", "and_one_more_of_them"):
        inner = Part(**{name: nn.ModuleList([inner, nn.Identity()])})
    far = Root(first=nn.ModuleList([nn.Identity(), Part(fc=nn.Linear(2, 2))]))
    near = Part(fc=nn.Linear(2, 2))
    far.first[1].fc.weight = near.fc.weight = (
        inner.and_one_more_of_them[0].another_rather_long_name[0].a_rather_long_name[0].weight
    )
    far = Root(**{far_name: quantized}, far=far)
    return Root(deep=inner, tied=near, twin=inner, a_name_that_makes_the_line_long=far)


class Coder(nn.TransformerEncoder):
    pass


@model
def not_a_coder():
    """`layers`, `num_layers` and `norm` alone do not make a nn.TransformerEncoder."""
    stages = nn.Sequential(Part(conv=nn.Linear(1, 2)), Part(conv=nn.Linear(2, 3)))
    return Part(
        stem=nn.Linear(1, 1), layers=stages, num_layers=2, norm=nn.LayerNorm(3),
        coder=Coder(nn.TransformerEncoderLayer(4, 2, 8), 2),
    )  # fmt: skip


def main():
    sys.modules["zoo_models"] = sys.modules["zoo_models.parts"] = sys.modules["__main__"]
    for thing in list(globals().values()):
        if getattr(thing, "__module__", None) == "__main__" and thing is not model:
            thing.__module__ = "zoo_models.parts"
    torch.manual_seed(0)
    for name, build in MODELS.items():
        torch.save(build(), os.path.join(sys.argv[1], f"{name}.pt"))
        print(name)


if __name__ == "__main__":
    main()
