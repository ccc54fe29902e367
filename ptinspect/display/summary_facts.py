"""The lines of a summary: what a file is, holds and needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.display.text.escape import cut, safe
from ptinspect.document.entries import describe
from ptinspect.pickling.pyobjects import brief_repr
from ptinspect.text import count_text, shell_word, size_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ptinspect.display.options import Look
    from ptinspect.document import Document, TensorInfo
    from ptinspect.document.optim.state import Optimizer
    from ptinspect.pickling.values import Value
    from ptinspect.safety.load_advice import LoadAdvice

Fact = tuple[str, str]
"""A label, and what is said."""

ROLES = ("parameter", "buffer", "tensor", "optimizer")

NAMED = 6
"""Names that a line lists before it counts the rest."""


def heading(document: Document) -> str:
    """`model.pth  2.7 kB, torch-zip, full model of class __main__.CustomModel`"""
    archive = document.archive
    order = ", big-endian" if archive.byteorder == "big" else ""
    return f"{size_text(document.size)}, {archive.format}{order}, {kind_text(document)}"


def kind_text(document: Document) -> str:
    """The kind in words."""
    kind, named = document.kind, document.class_path
    of_class = f" of class {cut(named)}" if named else ""
    if kind == "module":
        return f"full model{of_class}"
    if kind == "optimizer":
        found = document.optimizers[0]
        return f"optimizer state of {optimizer_name(found)}"
    if kind in ("tensors", "other"):
        what = f"an object{of_class}" if named else type_text(document.archive.root)
        return f"tensors in {what}" if kind == "tensors" else f"no tensors, {what}"
    return "a tensor" if kind == "tensor" else kind


def type_text(value: Value) -> str:
    """The type of a value that is no object: `a dict`, `an int`."""
    said = describe(value)
    name = cut(said[0]) if said is not None else type(value).__name__
    if value is None:
        return "None"
    return f"an {name}" if name[:1] in "aeiou" else f"a {name}"


def facts(document: Document, look: Look) -> Iterator[Fact]:
    """All lines that apply, in order."""
    from ptinspect.display.resume_status import resume_text
    from ptinspect.safety.load_advice import load_advice
    from ptinspect.safety.scan import dangers

    infos = list(document.tensors.values())
    if look.file_hash is not None:
        yield "sha256", look.file_hash.text
    if infos:
        yield "tensors", tensors_text(document, infos)
    yield from _state_dict(document, infos)
    for found in document.optimizers:
        yield "optimizer", optimizer_text(document, found)
    if document.optimizers:
        yield "fits", _fits(document, look)
    if document.kind in ("checkpoint", "optimizer"):
        yield "resume", resume_text(document)
    yield from _hooks(document)
    yield from _sources(document)
    advice = load_advice(document)
    yield from needs(document, advice, look)
    danger = dangers(document)
    if danger:
        yield "load", f"do not load it: {cut(danger[0].chain)}"
        yield "", cut(danger[0].why)
        return
    yield "load", safe(advice.call)
    for reason in advice.why:
        yield "", f"weights_only cannot load it: {cut(reason)}"
    if not advice.weights_only and not advice.why and not advice.needs:
        yield "", f"weights_only asks for {listed([cut(name) for name in advice.safe_globals])}"
        if "scan" in look.commands and document.path != "-":
            yield "", f"ptinspect scan {shell_word(document.path)} prints the line that allows it"


# --- tensors ------------------------------------------------------------------------------


def tensors_text(document: Document, infos: list[TensorInfo]) -> str:
    """`2 parameters, 3 elements, 12 bytes, float32, cuda:0`"""
    tally = Tally(infos)
    parts = tally.roles()
    total = document.totals
    held = size_text(total.nbytes)
    if total.storage_nbytes != total.nbytes:
        held += f" of {size_text(total.storage_nbytes)} in storages"
    parts.append(held)
    parts += _leading(tally.dtypes)
    parts += _leading(tally.devices)
    return ", ".join(parts)


class Tally:
    """Counts and sums per role, dtype and device; what is the same counts once."""

    def __init__(self, infos: Iterable[TensorInfo]) -> None:
        self.counts: dict[str, int] = {}
        self.elements: dict[str, int] = {}
        self.dtypes: dict[str, int] = {}
        self.devices: dict[str, int] = {}
        self.tied = 0
        seen: set[object] = set()
        for info in infos:
            tensor, role = info.tensor, info.role
            self.counts[role] = self.counts.get(role, 0) + 1
            mark = tensor.same()
            if mark in seen and tensor.numel:
                self.tied += 1
                continue
            seen.add(mark)
            self.elements[role] = self.elements.get(role, 0) + max(tensor.numel, 0)
            dtype = tensor.dtype.name if tensor.dtype else "unknown dtype"
            self.dtypes[dtype] = self.dtypes.get(dtype, 0) + tensor.nbytes
            self.devices[tensor.device] = self.devices.get(tensor.device, 0) + tensor.nbytes

    def roles(self) -> list[str]:
        """`2 parameters, 3 elements`; with several roles `2 parameters with 3 elements, …`."""
        names = {"optimizer": "optimizer tensor"}
        made = []
        for role in sorted(self.counts, key=ROLES.index):
            count = self.counts[role]
            elements = count_text(self.elements.get(role, 0), "element")
            named = count_text(count, names.get(role, role))
            made.append(
                f"{named}, {elements}" if len(self.counts) == 1 else f"{named} with {elements}"
            )
        if self.tied:
            made[-1] += f" ({self.tied:,} tied)"
        return made


def _leading(sums: dict[str, int]) -> list[str]:
    """Names by how much there is of them."""
    names = sorted(sums, key=lambda name: -sums[name])
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    return [*(cut(name) for name in names[:NAMED]), *more]


def _state_dict(document: Document, infos: list[TensorInfo]) -> Iterator[Fact]:
    """What state_dict() of a full model would keep, and how large that is."""
    if document.kind != "module":
        return
    kept = [info for info in infos if info.persistent and info.role in ("parameter", "buffer")]
    seen = {info.tensor.same(): info.nbytes for info in kept}
    keys = count_text(len(kept), "key")
    yield (
        "state_dict",
        f"{size_text(sum(seen.values()))} in {keys}, the file is {size_text(document.size)}",
    )


# --- optimizers ---------------------------------------------------------------------------

_TELLING = ("lr", "momentum", "betas", "alpha", "weight_decay", "nesterov", "amsgrad")


def optimizer_name(found: Optimizer) -> str:
    """`SGD (inferred)`; the whole path for a class that is not torch's."""
    if found.class_path is None:
        return "an unknown class"
    name = cut(found.class_path.removeprefix("torch.optim."))
    return name if found.evidence == "recorded" else f"{name} ({found.evidence})"


def optimizer_text(document: Document, found: Optimizer) -> str:
    """`SGD (inferred), lr 0.0001, 2 parameters, no state, in optimizer_state_dict`"""
    parts = [optimizer_name(found)]
    groups = found.groups
    if len(groups) == 1:
        parts += settings(document, groups[0])
        parts.append(count_text(found.parameters(0), "parameter"))
    else:
        rates = [setting(document, group.get("lr")) for group in groups[:NAMED]]
        more = ", …" if len(groups) > NAMED else ""
        parts.append(f"lr {', '.join(rates)}{more}")
        total = sum(found.parameters(number) for number in range(len(groups)))
        parts.append(f"{count_text(total, 'parameter')} in {count_text(len(groups), 'group')}")
    if found.state:
        step = found.step
        parts.append(f"state of {len(found.state):,}")
        if step is not None:
            parts.append(f"step {setting(document, step)}")
    else:
        parts.append("no state")
    if found.path:
        from ptinspect.document.walk import dotted

        parts.append(f"in {cut(dotted(found.path))}")
    return ", ".join(parts)


def _fits(document: Document, look: Look) -> str:
    """Whether the optimizers' state fits the model, and the command that tells more."""
    from ptinspect.document.optim.check import fit_line

    said = cut(fit_line(document) or "")
    more = said.startswith("no: ") or said.endswith(" undecided")
    if more and "check" in look.commands:
        said += f"    ptinspect check optimizer {shell_word(document.path)}"
    return said


def settings(document: Document, group: dict[Value, Value]) -> list[str]:
    """The hyper-parameters that tell most, those that are off left out."""
    made = []
    for name in _TELLING:
        value = group.get(name)
        if name in group and (name == "lr" or value not in (None, False, 0)):
            made.append(name if value is True else f"{name} {setting(document, value)}")
    return made


def setting(document: Document, value: Value) -> str:
    """A hyper-parameter in few words; a tensor's number."""
    tensor = document.tensor_of(value)
    if tensor is not None:
        from ptinspect.display.numbers.decode import number_of

        return number_text(number_of(tensor))
    said = describe(value)
    if said is None:
        return cut(brief_repr(value))
    if isinstance(said[1], list):
        return f"({', '.join(map(number_text, said[1]))})"
    return number_text(said[1])


def number_text(value: Value) -> str:
    """A number as Python prints it; whole floats without a fraction where they count steps."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return cut(brief_repr(value))


# --- what else there is -------------------------------------------------------------------


def _hooks(document: Document) -> Iterator[Fact]:
    made = []
    for info in document.modules:
        for kind, hooks in info.module.hooks.items():
            name = kind.strip("_").replace("_hooks", " hook").replace("_", " ")
            made += [f"{cut(info.name) or 'the model'}: {name} {cut(hook)}" for hook in hooks]
    if made:
        yield "hooks", listed(made, "; ")


def _sources(document: Document) -> Iterator[Fact]:
    """Of the classes whose source a legacy file holds, those that are not torch's own by name."""
    sources = document.archive.sources
    if not sources:
        return
    own = [source for source in sources if not source.module.startswith("torch.")]
    names = [f"{cut(source.module)}.{cut(source.name)} ({cut(source.file)})" for source in own]
    torchs = len(sources) - len(own)
    if torchs:
        names.append(
            f"{torchs} of torch"
            if own
            else count_text(torchs, "class of torch", "classes of torch")
        )
    yield "source", f"the file holds that of {listed(names)}"


def needs(document: Document, advice: LoadAdvice, look: Look) -> Iterator[Fact]:
    """The classes to have at hand, and the command that writes them, where there is one."""
    if advice.needs:
        said = listed([cut(name) for name in advice.needs])
        if "stub" in look.commands and document.path != "-":
            said += f"    ptinspect stub {shell_word(document.path)} > model_def.py"
        yield "needs", said


def listed(names: list[str], separator: str = ", ") -> str:
    """The first names, and how many more there are."""
    made = separator.join(names[:NAMED])
    return made if len(names) <= NAMED else f"{made} and {len(names) - NAMED:,} more"
