"""Both loss curves as a picture: matplotlib, the extra `plot`."""

from __future__ import annotations

import os
from io import BytesIO

from ptinspect.atomic_file import check_destination, write_file
from ptinspect.errors import PtInspectError, UnsupportedError

ENDINGS = (".png", ".svg", ".pdf")


def ready(path: str, force: bool) -> None:
    """Raises before anything is trained what would fail afterwards: UnsupportedError without
    matplotlib, PtInspectError for a name that is taken or says no format."""
    from importlib.util import find_spec

    if not path.lower().endswith(ENDINGS):
        raise PtInspectError(f"a plot is one of {', '.join(ENDINGS)}", path=path)
    check_destination(path, force=force)
    if find_spec("matplotlib") is None:
        raise UnsupportedError(
            "matplotlib is not installed", hint="pip install 'ptinspect[plot]', or leave --plot out"
        )


def plot_losses(
    path: str, losses: tuple[list[float], list[float]], saved: int, force: bool = False
) -> None:
    """The uninterrupted and the resumed run. saved: the step after which it was saved.
    PtInspectError where the picture cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    whole, resumed = losses
    axes.plot(
        range(1, len(whole) + 1), whole, label="uninterrupted", gid="uninterrupted",
        linewidth=3, alpha=0.5,
    )  # fmt: skip
    after = resumed[saved:]
    steps = range(saved + 1, saved + 1 + len(after))
    axes.plot(steps, after, label="resumed", gid="resumed", marker=".")
    axes.axvline(saved + 0.5, linestyle=":", color="grey", gid="saved")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    # The same training, the same picture.
    dates = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    suffix = os.path.splitext(path)[1].lower()
    image = BytesIO()
    figure.savefig(image, format=suffix[1:], metadata=dates.get(suffix))
    write_file(path, image.getvalue(), force=force)
