"""The user's files: the model's class and the batches. They are code that the user trusts."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn

from ptinspect.proofs.worker import CannotRun, one_line, raise_unless_of_model
from ptinspect.proofs.worker.determinism import rng_states, set_rng_states

# Epochs of up to so many batches are used whole.
WHOLE_EPOCH = 32
RANDOM_BATCHES = 4
RANDOM_BATCH_SIZE = 8

NO_BATCHES = "an epoch without batches"
DATA_HINT = "see the function of --data"


def optimizer_class(path: str) -> Any:
    cls = getattr(torch.optim, path.removeprefix("torch.optim."), None)
    base = torch.optim.Optimizer
    if not isinstance(cls, type) or not issubclass(cls, base) or cls is base:
        raise CannotRun(
            f"torch.optim has no {path}",
            "give --optimizer-class torch.optim.AdamW, or write make_optimizer(model) in the file "
            "of the model's class",
        )
    return cls


def loss_function(name: str) -> Any:
    if name not in nn.modules.loss.__all__:
        raise CannotRun(f"torch.nn has no loss {name}", "such as MSELoss or CrossEntropyLoss")
    return getattr(nn, name)()


def load_file(path: str, weights_only: bool) -> Any:
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file as load_safetensors

        return load_safetensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=weights_only)
    except (AttributeError, ImportError) as error:
        traceback.print_exc()
        name = str(error).partition(" on <module")[0]
        raise CannotRun(
            f"torch.load: {name}",
            "make the module importable; a class of __main__ belongs in the --model file",
        ) from error


# --- The model --------------------------------------------------------------------------------


def import_model(reference: str | None, names: list[str]) -> tuple[Any, Any]:
    """Return the user's module and the object in it that creates the model, None without any."""
    if reference is None:
        return None, None
    module, factory = import_object(reference)
    for path in names:
        pickled_module, _, name = path.rpartition(".")
        if not hasattr(module, name):
            continue
        target = sys.modules.setdefault(pickled_module, types.ModuleType(pickled_module))
        if not hasattr(target, name):
            setattr(target, name, getattr(module, name))
        # Only the user's own file is trusted, not an installed package with such a class.
        source = getattr(target, "__file__", None) or pickled_module
        if getattr(target, name) is not getattr(module, name) and (
            os.path.basename(source) != os.path.basename(module.__file__)
        ):
            raise CannotRun(
                f"{path} is a class of {source}, not the one in the --model file",
                "give the file that defines it as --model FILE.py:CLASS, or trust it with --trust",
            )
    return module, factory


def create_model(factory: Any, reference: str | None) -> Any:
    """Return a new model from its class, from a function, or the module itself."""
    if reference is None:
        raise CannotRun("the file holds weights, but no model", "give --model FILE.py:CLASS")
    model = factory
    if callable(factory) and not isinstance(factory, nn.Module):
        hint = "--model also takes a function without parameters that returns the model"
        with user_errors(f"{reference} cannot be called", hint):
            model = factory()
    if not isinstance(model, nn.Module):
        raise CannotRun(f"{reference} returns no torch.nn.Module")
    return model


def import_object(reference: str) -> tuple[Any, Any]:
    """Return the module and the object that `FILE.py:NAME` names.

    A file is imported once per process, under its own name and with its folder in sys.path.
    """
    path, _, name = reference.rpartition(":")
    if not path and os.path.isfile(name):
        raise CannotRun(f"{name}: which name in it?", "write FILE.py:NAME")
    if not path or not os.path.isfile(path):
        raise CannotRun(f"{path or reference}: no such file", "write FILE.py:NAME")
    absolute = os.path.abspath(path)
    folder, stem = os.path.dirname(absolute), os.path.splitext(os.path.basename(absolute))[0]
    module = sys.modules.get(stem)
    if module is None or getattr(module, "__file__", None) != absolute:
        if folder not in sys.path:
            sys.path.insert(0, folder)
        spec = importlib.util.spec_from_file_location(stem, absolute)
        if spec is None or spec.loader is None:
            raise CannotRun(f"{path} is not a Python file")
        module = sys.modules[stem] = importlib.util.module_from_spec(spec)
        with user_errors(f"{path} cannot be imported"):
            spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise CannotRun(f"{path} has no {name}")
    return module, getattr(module, name)


@contextlib.contextmanager
def user_errors(message: str, hint: str | None = None) -> Iterator[None]:
    """Re-raise what the user's code raises, including `sys.exit()`, as CannotRun."""
    try:
        yield
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        if not isinstance(error, MemoryError):  # the file that wants the memory is worth naming
            raise_unless_of_model(error)
        raise CannotRun(f"{message}: {one_line(error)}", hint) from error


# --- The batches ------------------------------------------------------------------------------


class Batches:
    """Epochs of batches: from the user's function, or random inputs for the first layer.

    Attributes:
        length: batches of an epoch; None if it is unknown.
        real_length: the same, but None for random inputs, which say nothing of the real data.
        random_note: a description of the random inputs; empty for the user's batches.
        limit: batches to use of each epoch; None for all.
        notes: what a reader should know of the limit.
        uses_epoch: the batches follow from the number of the epoch.
    """

    def __init__(self, reference: str | None, model: Any, seed: int) -> None:
        self.random_note = ""
        self.limit: int | None = None
        self.notes: list[str] = []
        self.uses_epoch = self._by_epoch = False
        self._source: Any = None
        self.length: int | None = None
        self.real_length: int | None = None
        if reference is None:
            self._source, self.random_note = random_batches(model, seed)
            self.length = len(self._source)
            return
        _, self._function = import_object(reference)
        with user_errors(f"{reference} cannot be called"):
            self._by_epoch = "epoch" in inspect.signature(self._function).parameters
            states = rng_states("cpu")
            source = self._function(epoch=0) if self._by_epoch else self._function()
            with contextlib.suppress(TypeError):
                self.length = len(source)
            if self._by_epoch:
                set_rng_states(states)  # asking for the length must not change the numbers drawn
            elif iter(source) is source:  # a generator: call the function for each epoch
                self.length = None
            else:
                self._source = source
        self.real_length, self.uses_epoch = self.length, self._by_epoch

    def limit_epochs(self, steps: int) -> None:
        """Use only a part of each epoch if it is long, or of unknown length."""
        if self.length is None:
            self.limit = max(steps, 2)
        elif self.length > max(steps, WHOLE_EPOCH):
            self.limit = max(steps, WHOLE_EPOCH)
            self._note_limit()

    @property
    def used(self) -> int | None:
        """Batches that are used of each epoch; None for all."""
        if self.limit is None or (self.length is not None and self.length < self.limit):
            return None
        return self.limit

    def _note_limit(self) -> None:
        if self.used is None:
            return
        fact, more = "the data do not tell how many batches an epoch has", "--steps N uses more"
        if self.real_length is not None:
            fact = f"an epoch has {self.length:,} batches"
            more = f"--steps {self.length} uses all of them"
        self.notes.append(f"{fact}: the first {self.limit} of each are used; {more}")

    def epoch(self, number: int) -> Iterator[Any]:
        source = self._source
        if self._by_epoch:
            source = self._function(epoch=number)
        elif source is None:
            source = self._function()
        for holder in (source, getattr(source, "sampler", None)):
            if holder is not None and hasattr(holder, "set_epoch"):
                self.uses_epoch = True
                holder.set_epoch(number)
        return iter(source)

    def limited_epoch(self, number: int) -> tuple[Iterator[Any], int]:
        """Return the batches of an epoch, and how many of them to use."""
        batches = self.epoch(number)
        if self.length is None:  # read the used batches at once, to know their number
            used = list(islice(batches, self.limit))
            batches, self.length = iter(used), len(used)
            self._note_limit()
        count = min(count for count in (self.length, self.limit) if count is not None)
        if not count:
            raise CannotRun(NO_BATCHES, DATA_HINT)
        return batches, count

    def first(self, count: int) -> list[Any]:
        """Return the first batches, of as many epochs as needed."""
        batches: list[Any] = []
        for epoch in range(count):
            before = len(batches)
            batches += islice(self.epoch(epoch), count - before)
            if len(batches) == count:
                break
            if len(batches) == before:
                raise CannotRun(NO_BATCHES, DATA_HINT)
        return batches

    def holders(self) -> list[tuple[str, Any]]:
        """Return the objects of the data that may hold a random number generator, with names."""
        source = self._source
        names = ("sampler", "batch_sampler", "dataset", "collate_fn")
        parts = [(f"the data's {name}", getattr(source, name, None)) for name in names]
        return [(type(source).__name__, source), *parts]


def split_batch(batch: Any, device: str) -> tuple[Any, Any]:
    """Return inputs and target of a batch on the device; the target may be None."""
    moved = to_device(batch, device)
    if not isinstance(moved, list | tuple):
        return moved, None
    if len(moved) == 1:
        return moved[0], None
    return (moved[0] if len(moved) == 2 else moved[:-1]), moved[-1]


def to_device(value: Any, device: str, scalars: bool = True) -> Any:
    """Move tensors to a device; without `scalars` a step count stays where it is, as in torch."""
    if isinstance(value, torch.Tensor):
        return value.to(device) if scalars or value.dim() else value
    if isinstance(value, dict):
        return {key: to_device(item, device, scalars) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [to_device(item, device, scalars) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if callable(getattr(value, "to", None)):  # a batch of a class of its own
        return value.to(device)
    return value


def call_model(model: Any, inputs: Any) -> Any:
    """Return the tensor in the model's output that a loss is computed from."""
    if isinstance(inputs, Mapping):
        output = model(**inputs)
    else:
        output = model(*inputs) if isinstance(inputs, list | tuple) else model(inputs)
    while isinstance(output, tuple | list):
        output = output[0]
    if isinstance(output, dict):
        output = output["loss"] if "loss" in output else next(iter(output.values()))
    if not isinstance(output, torch.Tensor):  # an output object of transformers
        loss = getattr(output, "loss", None)
        output = loss if loss is not None else getattr(output, "logits", output)
    return output


def compute_loss(criterion: Any, output: Any, target: Any) -> tuple[Any, str]:
    """Return the loss and its name.

    Without a target it is the model's own loss if that is one number, else the mean square of the
    outputs.
    """
    if target is not None:
        return criterion(output, target), type(criterion).__name__
    if not output.dim():
        return output, "the model's own loss"
    return output.float().square().mean(), "the mean square of the outputs"


def random_batches(model: Any, seed: int) -> tuple[list[Any], str]:
    """Return batches for the model's first layer, and a description of them."""
    generator = torch.Generator().manual_seed(seed)
    shapes: list[tuple[Any, Callable[[Any], tuple[int, ...]]]] = [
        (nn.Embedding, lambda m: (5,)),
        (nn.Linear, lambda m: (m.in_features,)),
        (nn.Bilinear, lambda m: (1,)),
        (nn.modules.conv._ConvNd, lambda m: (m.in_channels, *[32] * len(m.kernel_size))),
        (nn.RNNBase, lambda m: (5, m.input_size)),
        (nn.BatchNorm1d, lambda m: (m.num_features,)),
    ]
    for name, module in model.named_modules():
        shape = next((shape(module) for cls, shape in shapes if isinstance(module, cls)), None)
        if shape is not None:
            size = (RANDOM_BATCH_SIZE, *shape)
            draw: Callable[..., Any] = torch.randn
            if isinstance(module, nn.Embedding):
                draw = partial(torch.randint, module.num_embeddings)
            batches = [draw(size, generator=generator) for _ in range(RANDOM_BATCHES)]
            layer = name or "the model"
            return batches, f"inputs of shape {size}, made up for the first layer, {layer}"
        if list(module.parameters(recurse=False)):
            break
    raise CannotRun(
        "the first layer does not tell which inputs the model takes", "give --data FILE.py:FUNCTION"
    )
