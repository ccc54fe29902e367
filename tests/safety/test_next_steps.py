"""What scan advises can be done: with files as torch itself writes them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from ptinspect.conversion import convert
from ptinspect.safety.scan import scan
from tests.safety.test_steps import outcomes

torch = pytest.importorskip("torch")


def values() -> dict[str, Any]:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(2)).sum().backward()
    optimizer.step()
    return {
        "date": {"x": datetime.datetime(2024, 1, 2)},
        "optimizer": optimizer,
        "state": {**optimizer.state_dict(), "param_groups": [{"when": datetime.date.min}]},
        "module": layer,
        "parallel": torch.nn.DataParallel(layer),
        "checkpoint": {"model": layer, "when": datetime.datetime(2024, 1, 2)},
    }


@pytest.mark.slow
def test_what_is_advised_can_be_done(tmp_path: Path) -> None:
    lines, converted = [], set()
    for what, value in values().items():
        file = tmp_path / f"{what}.pt"
        torch.save(value, file)
        steps = scan(file, commands=("convert",)).steps
        lines += [step for step in steps if step.startswith(("import ", "torch."))]
        if any(step.startswith("ptinspect convert ") for step in steps):
            converted.add(what)
            convert(file, tmp_path / f"{what}.safetensors")
    assert converted == {"module", "parallel", "checkpoint"}
    assert len(lines) >= len(values())
    assert set(outcomes(lines)) == {"yes"}
