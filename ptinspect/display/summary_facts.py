"""The facts and entries that the summary and the Markdown view list."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ptinspect.document.entries import describe
from ptinspect.document.modules import BUFFERS, PARAMETERS
from ptinspect.document.to_array import number_of
from ptinspect.pickling.pyobjects import brief_repr, class_path, dotted
from ptinspect.pickling.values import Call
from ptinspect.text import count_text, cut, join_names, python_literal, safe, shell_word, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ptinspect.display import ShowOptions
    from ptinspect.display.measure import FileHash
    from ptinspect.document import Document
    from ptinspect.document.modules import ModuleInfo
    from ptinspect.document.optim.state import Optimizer
    from ptinspect.formats.archive import Archive
    from ptinspect.pickling.pyobjects import Path
    from ptinspect.pickling.values import Value

    Fact = tuple[str, str]  # a label and a text

ROLES = ("parameter", "buffer", "tensor", "optimizer")

DO_NOT_LOAD = "do not load it"

MAX_NAMES = 6
"""Names that a line lists before it counts the rest."""


def heading(document: Document) -> str:
    """Return `2.7 kB, torch-zip, full model of class __main__.CustomModel`."""
    archive = document.archive
    order = ", big-endian" if archive.byteorder == "big" else ""
    return f"{size_text(document.size)}, {archive.format}{order}, {content_text(document)}"


def content_text(document: Document) -> str:
    """Return what the file holds: `full model of class __main__.CustomModel`."""
    kind, class_path = document.kind, document.class_path
    of_class = f" of class {cut(class_path)}" if class_path else ""
    if kind == "module":
        programs = {"torchscript": "TorchScript program", "torch-export": "exported program"}
        if document.archive.format == "torch-export":
            of_class = ""
        return f"{programs.get(document.archive.format, 'full model')}{of_class}"
    if kind == "optimizer":
        return f"optimizer state of {document.optimizers[0].label}"
    if kind in ("tensors", "other"):
        root = f"an object{of_class}" if class_path else _with_article(document.archive.root)
        return f"tensors in {root}" if kind == "tensors" else f"no tensors, {root}"
    return "a tensor" if kind == "tensor" else kind


def _with_article(value: Value) -> str:
    """Return `a dict` or `an int`."""
    if value is None:
        return "None"
    name = (describe(value) or (type(value).__name__,))[0]
    if isinstance(value, Call):
        name = (class_path(value) or "object").rsplit(".", 1)[-1]
    return f"{'an' if name[:1] in 'aeiouAEIO' else 'a'} {cut(name)}"


def facts(document: Document, options: ShowOptions, file_hash: FileHash | None) -> Iterator[Fact]:
    """Yield the facts that apply to the document, in order. An empty label continues the fact
    before."""
    if file_hash is not None:
        yield "sha256", file_hash.text
    metadata = document.archive.facts.get("metadata")
    if isinstance(metadata, dict):
        yield "metadata", join_names(map(_metadata_text, metadata.items()), MAX_NAMES)
    if document.checked_records is not None:
        yield "checksums", checksums_text(document.checked_records, document.checksum_warnings)
    if document.tensors:
        yield "tensors", tensors_text(document)
    if document.kind == "module":
        yield "state_dict", _state_dict_text(document)
    package = document.archive.facts.get("package")
    if isinstance(package, dict):
        parts = [
            f"{count_text(len(names), kind.removesuffix('s'))}"
            for kind, names in package.items()
            if names and kind not in ("extern", "mock")
        ]
        yield "package", ", ".join(parts)
        for kind in ("extern", "mock"):
            if package[kind]:
                yield kind, join_names(map(cut, package[kind]), MAX_NAMES)
    programs = document.archive.facts.get("programs")
    for program in programs if isinstance(programs, list) else ():
        yield from _program_facts(program)
    for info in document.modules:
        if not info.name and (attributes := _attributes_text(document, info)):
            yield "attributes", attributes
    for optimizer in document.optimizers:
        yield "optimizer", optimizer_text(document, optimizer)
    fit = ""
    if document.optimizers:
        from ptinspect.document.optim.check import fit_line

        fit = cut(fit_line(document) or "")
        if options.hints and (fit.startswith("no: ") or fit.endswith(" undecided")):
            fit += f"    ptinspect check optimizer {shell_word(document.path)}"
        if fit:
            yield "fits", fit
    if document.kind in ("checkpoint", "optimizer"):
        text = resume_text(document)
        if fit.startswith("no: ") and text.startswith("yes: "):
            text = f"no, the optimizer state does not fit the model (there: {text[5:]})"
        yield "resume", text
    hooks = [
        f"{cut(info.name) or 'the model'}: "
        f"{kind.strip('_').replace('_hooks', ' hook').replace('_', ' ')} {cut(hook)}"
        for info in document.modules
        for kind, hooks in info.module.hooks.items()
        for hook in hooks
    ]
    if hooks:
        yield "hooks", join_names(hooks, MAX_NAMES, separator="; ")
    if document.archive.sources:
        yield "source", f"the file contains that of {_sources_text(document.archive)}"
    yield from _load_facts(document, options.hints)


def _program_facts(program: dict[str, Any]) -> Iterator[Fact]:
    """Yield signature, operators and dynamic sizes of a program of torch.export."""
    names = [join_names(map(cut, program[key]), MAX_NAMES) for key in ("inputs", "outputs")]
    yield "program", f"{cut(program['name'])}({names[0]}) -> {names[1] or 'nothing'}"
    operators = [f"{cut(item['name'])} ({item['count']:,})" for item in program["operators"]]
    ranges = [
        f"{cut(symbol)} from {low} to {high}" for symbol, (low, high) in program["ranges"].items()
    ]
    for label, texts in (("operators", operators), ("ranges", ranges)):
        if texts:
            yield label, join_names(texts, MAX_NAMES)


def _attributes_text(document: Document, info: ModuleInfo) -> str:
    """Return the plain attributes of a model: `names: 80 items, task: detect`."""
    from ptinspect.display.tree import plain_attributes

    attributes = plain_attributes(document, info.module).items()
    shown = [item for item in attributes if item[1] is not None and not item[0].startswith("_")]
    texts = join_names(map(_metadata_text, shown), MAX_NAMES)
    return f"{texts}, in {cut(dotted(info.root))}" if texts and info.root else texts


def _metadata_text(item: tuple[str, object]) -> str:
    """Return `name: value`, where a long value is cut and items are counted."""
    name, value = item
    if isinstance(value, dict):
        value = count_text(value.get("length", len(value)), "item")
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        value = count_text(len(value), "item")
    text = str(value)
    return cut(f"{name}: {text[:60]}{'…' * (len(text) > 60)}")


def checksums_text(checked: int, wrong: Sequence[object]) -> str:
    """Return `12 records, all match their CRC-32`."""
    records = count_text(checked, "record")
    if wrong:
        return f"{len(wrong):,} of {records} do not match their CRC-32"
    return f"{records}, all match their CRC-32" if checked else "the file records none"


def _load_facts(document: Document, hints: bool) -> Iterator[Fact]:
    """Yield the classes that loading needs, the call that loads the file, and its obstacles."""
    from ptinspect.safety.load_advice import (
        dangerous_findings,
        has_safe_globals_line,
        load_advice,
        load_call,
        pasteable,
        path_to_load,
    )

    hints = hints and document.path != "-"  # standard input cannot be read again
    advice = load_advice(document)
    if advice.needs:
        yield "needs", join_names(map(cut, advice.needs), MAX_NAMES)
        if hints:
            yield "", f"ptinspect stub {shell_word(document.path)} > model_def.py"
    danger = dangerous_findings(document)
    if danger:
        yield "load", f"{DO_NOT_LOAD}: {cut(danger[0].chain)}"
        yield "", cut(danger[0].reason)
        return
    path, call = path_to_load(document), advice.call
    if document.archive.format == "torch-dcp":  # whose own reader needs a model to fill
        call = load_call(path, "torch-ranks", "", "")
    yield "load", safe(pasteable(call, document.globals, hints and bool(advice.needs)))
    if document.archive.format == "safetensors" and path.endswith(".safetensors"):
        yield "", f"import torch; torch.load({safe(python_literal(path))})  # torch 2.13 or later"
    for reason in advice.blockers:
        yield "", f"weights_only cannot load it: {cut(reason)}"
    if not advice.weights_only and not advice.blockers and not advice.needs:
        names = join_names(map(cut, advice.safe_globals), MAX_NAMES)
        yield "", f"weights_only asks for {names}"
        if hints and has_safe_globals_line(document, advice):
            yield "", f"ptinspect scan {shell_word(document.path)} prints the line that allows it"


def tensors_text(document: Document) -> str:
    """Return `2 parameters, 3 elements, 12 bytes, float32, cuda:0`; with several roles `2
    parameters with 3 elements, 1 buffer with 1 element, …`. Views of the same bytes count once."""
    counts, elements, dtypes, devices = (Counter[str]() for _ in range(4))
    tied = document.survey.duplicates
    for info in document.tensors.values():
        tensor = info.tensor
        counts[info.role] += 1
        if info in tied:
            continue
        elements[info.role] += max(tensor.numel, 0)
        dtype = tensor.dtype.name if tensor.dtype else tensor.encoding or "unknown dtype"
        dtypes[dtype] += tensor.nbytes
        devices[tensor.device] += tensor.nbytes
    joint = ", " if len(counts) == 1 else " with "
    parts = [
        count_text(counts[role], "optimizer tensor" if role == "optimizer" else role)
        + joint
        + count_text(elements[role], "element")
        for role in sorted(counts, key=ROLES.index)
    ]
    if tied:
        parts[-1] += f" ({len(tied):,} tied)"
    totals = document.totals
    parts.append(size_text(totals.nbytes))
    if totals.storage_nbytes != totals.nbytes:
        parts[-1] += f" of {size_text(totals.storage_nbytes)} in storages"
    for sizes in (dtypes, devices):
        parts += [cut(name) for name, _ in sizes.most_common(MAX_NAMES)]
        parts += [f"{len(sizes) - MAX_NAMES} more"] if len(sizes) > MAX_NAMES else []
    return ", ".join(parts)


def _state_dict_text(document: Document) -> str:
    """Return the size of the state_dict() of a full model, in comparison with the file."""
    modules = [info.module for info in document.modules if not info.root]
    is_packed = any(module.packs_weights for module in modules)
    roles = ROLES if is_packed else ("parameter", "buffer")
    infos = document.tensors.values()
    members = [info for info in infos if info.persistent and info.role in roles]
    nbytes = sum({info.tensor.view_key: info.nbytes for info in members}.values())
    keys = len(members)
    if is_packed:  # a quantized weight and its bias may be one key, and numbers are keys as well
        packed = [module.packed_keys for module in modules]
        keys = sum(map(len, packed))
        for module in modules:
            keys += sum(value is not None for _, value in module.members(PARAMETERS))
            buffers = (name for name, value in module.members(BUFFERS) if value is not None)
            keys += sum(name not in module.non_persistent for name in buffers)
        nbytes += sum(12 for names in packed if "scale" in names)  # a float32 and an int64
    text = f"{size_text(nbytes)} in {count_text(keys, 'key')}"
    return f"{text}, the file is {size_text(document.size)}"


def _sources_text(archive: Archive) -> str:
    """Return the classes whose source a legacy file contains; those of torch are counted."""
    sources = [source for source in archive.sources if not source.module.startswith("torch.")]
    names = [f"{cut(source.module)}.{cut(source.name)} ({cut(source.file)})" for source in sources]
    from_torch = len(archive.sources) - len(sources)
    if from_torch:
        classes = count_text(from_torch, "class of torch", "classes of torch")
        names.append(f"{from_torch} of torch" if names else classes)
    return join_names(names, MAX_NAMES)


_MAIN_HYPERPARAMETERS = (
    "lr", "momentum", "betas", "alpha", "weight_decay", "nesterov", "amsgrad",
)  # fmt: skip


def optimizer_text(document: Document, optimizer: Optimizer) -> str:
    """Return `SGD (inferred), lr 0.0001, 2 parameters, no state, in optimizer_state_dict`."""
    parts, groups = [optimizer.label], optimizer.groups
    parameters = count_text(optimizer.parameter_count, "parameter")
    if len(groups) == 1:
        parts += [
            name if value is True else f"{name} {format_hyperparameter(document, value)}"
            for name in _MAIN_HYPERPARAMETERS
            if (value := groups[0].get(name)) or (name == "lr" and name in groups[0])
        ]
        parts.append(parameters)
    else:
        rates = [format_hyperparameter(document, group.get("lr")) for group in groups[:MAX_NAMES]]
        more = ", …" if len(groups) > MAX_NAMES else ""
        if rates:
            parts.append(f"lr {', '.join(rates)}{more}")
        parts.append(f"{parameters} in {count_text(len(groups), 'group')}")
    if optimizer.state:
        parts.append(f"state of {len(optimizer.state):,}")
        if optimizer.step is not None:
            parts.append(f"step {format_hyperparameter(document, optimizer.step)}")
    else:
        parts.append("no state")
    if optimizer.path:
        parts.append(f"in {cut(dotted(optimizer.path))}")
    return ", ".join(parts)


def format_hyperparameter(document: Document, value: Value) -> str:
    """Return a hyper-parameter in a few words; tensors in it as their numbers."""
    description = describe(value)
    if description is not None and not isinstance(description[1], dict):
        value = description[1]
    items = value if isinstance(value, list | tuple) and len(value) <= 8 else [value]
    tensors = [(item, document.tensor_of(item)) for item in items]
    texts = [
        _number_text(number_of(x) if x is not None and x.numel == 1 else item)
        for item, x in tensors
    ]
    return f"({', '.join(texts)})" if items is value else texts[0]


def _number_text(value: Value) -> str:
    if isinstance(value, float):  # a step that is recorded as 5999.0 reads better as 5999
        is_int = value.is_integer() and abs(value) < 1e15
        return str(int(value)) if is_int else f"{value:.6g}"
    return cut(brief_repr(value))


def resume_text(document: Document) -> str:
    """Return whether training can go on from the file. `yes: weights, optimizer state, epoch
    5999, RNG state` or `no, without … (there: …)`. It says what the file contains, not what a
    training script does with it."""
    from ptinspect.document.optim.state import (
        find_schedulers,
        has_state_after_step,
        training_counter,
    )

    present: list[str] = []
    missing: list[str] = []
    contents = document.contents
    (present if contents.modules or contents.state_dicts else missing).append("weights")
    if not document.optimizers:
        missing.append("optimizer state")
    elif any(
        item.state or has_state_after_step(item.class_path, item.groups) is False
        for item in document.optimizers
    ):
        present.append("optimizer state")
    else:
        present.append("an optimizer that has not started")
    counter = training_counter(document.entries, find_schedulers(document.entries))
    if counter is not None:
        present.append(f"{cut(dotted(counter.path))} {counter.value}")
    else:
        missing.append("an epoch or step")
    names: dict[Path, set[str]] = {}
    for entry in document.entries:
        if entry.path:
            names.setdefault(entry.path[:-1], set()).add(str(entry.path[-1]))
    if any({"last_epoch", "_step_count"} <= siblings for siblings in names.values()):
        present.append("scheduler state")
    if any({"growth_factor", "backoff_factor"} <= siblings for siblings in names.values()):
        present.append("gradient scaler state")
    text = ", ".join(present)
    if missing:
        *most, last = missing
        without = f"{', '.join(most)} and {last}" if most else last
        return f"no, without {without}" + (f" (there: {text})" if present else "")
    if _has_rng_state(document):
        return f"yes: {text}, RNG state"
    return f"yes: {text}; without RNG state not with the same random numbers"


def _has_rng_state(document: Document) -> bool:
    """Return True if an entry is named like an RNG state or is a tensor of torch's size for one."""
    infos = document.contents.tensors
    paths = [entry.path for entry in document.entries]
    paths += [info.path for info in infos if info.role == "tensor"]
    words = ["_".join(map(str, path)).lower() for path in paths]
    if any("rng" in word or "random_state" in word for word in words):
        return True
    # The state of the CPU's generator is a ByteTensor of 5,056 bytes.
    return any(
        info.dtype is not None and info.dtype.name == "uint8" and info.shape == (5056,)
        for info in infos
    )
