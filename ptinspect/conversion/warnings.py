"""What a user should know of a conversion: what SRC holds and DST does not, in a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptinspect.conversion.targets.module_state import beyond
from ptinspect.pickling.pyobjects import as_mapping, dotted
from ptinspect.text import join_names, shell_quoted, shell_word, size_text

if TYPE_CHECKING:
    from ptinspect.conversion.options import Options
    from ptinspect.conversion.plan import Plan
    from ptinspect.conversion.targets.state_dict import Model
    from ptinspect.document import Document
    from ptinspect.document.tensors import TensorInfo
    from ptinspect.pickling.pyobjects import Path


def of_model(plan: Plan, document: Document, model: Model) -> None:
    """Adds to the plan what a file of which only the model is written leaves behind: lines, and
    what is dropped."""
    made = plan.told
    if model.part.path:
        left = left_behind(document, model.part.path)
        if left:
            sizes = [f"{name} ({size_text(n)})" if n else name for name, n in left.items()]
            kept = "checkpoint" if plan.to != "checkpoint" and is_checkpoint(document) else "same"
            made.append(f"left behind: {join_names(sizes)}; --to {kept} keeps them")
        plan.dropped += left
    plan.dropped += [*model.left_out, *model.dropped]
    if model.module is not None and plan.to != "checkpoint":
        made.append(
            f"left behind: the class {model.module.class_path}, of which a state_dict has nothing;"
            " --to same keeps the full model"
        )
    if model.module is not None:
        coded = beyond(model.module, document)
        if coded:
            made.append(
                f"not in the file: what the code of {join_names(coded)} adds to its state_dict()"
                " (such as get_extra_state()); to have that, save the state_dict where the class is"
            )
    if model.left_out:
        made.append(
            f"left behind: {join_names(model.left_out)}, buffers that are not persistent and that"
            " state_dict() leaves out"
        )
    of_edits(plan, model)


def of_edits(plan: Plan, model: Model) -> None:
    """What the user chose to leave out of the model."""
    if model.dropped:
        plan.told.append(
            f"left behind, as --include and --exclude say: {join_names(model.dropped)}"
        )


def is_checkpoint(document: Document) -> bool:
    """Whether `--to checkpoint` takes all entries over."""
    return document.kind == "checkpoint" and as_mapping(document.archive.root) is not None


def left_behind(document: Document, kept: Path) -> dict[str, int]:
    """The top entries of a file outside of what is kept, each with the bytes of its tensors."""
    sizes: dict[str, int] = {}
    contents = document.contents
    seen: set[tuple[object, ...]] = set()
    for entry in contents.entries:
        if entry.path and entry.path[:1] != kept[:1]:
            sizes.setdefault(dotted(entry.path[:1]), 0)
    for info in contents.tensors:
        if info.path[: len(kept)] == kept or not info.path:
            continue
        name = dotted(info.path[: _differs(info, kept)])
        mark = info.tensor.view_key()
        sizes[name] = sizes.get(name, 0) + (0 if mark in seen else info.nbytes)
        seen.add(mark)
    for optimizer in contents.optimizers:
        if optimizer.path[: len(kept)] != kept and optimizer.path:
            sizes.setdefault(dotted(optimizer.path[:1]), 0)
    return sizes


def _differs(info: TensorInfo, kept: Path) -> int:
    """How many steps of a path tell it from the kept one."""
    same = 0
    for one, other in zip(info.path, kept, strict=False):
        if one != other:
            break
        same += 1
    return same + 1


def command(document: Document, options: Options, entry: str) -> str:
    """The command with that entry: ready to be pasted, whatever the file calls its entries."""
    name = shell_word(document.path)
    given = (
        f"--entry={shell_quoted(entry)}" if entry[:1] == "-" else f"--entry {shell_quoted(entry)}"
    )
    return f"ptinspect convert {name} --to {options.to} {given}"
