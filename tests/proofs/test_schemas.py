"""Each proof's JSON against the schema that the package ships; and no key that it does not have."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from ptinspect.display.json import json_value
from ptinspect.document.optim import matching
from ptinspect.proofs import optimizer
from ptinspect.proofs import resume as proof
from ptinspect.proofs import resume_causes as causes
from ptinspect.proofs import resume_report as reports
from ptinspect.proofs.resume_causes import Cause, Difference
from ptinspect.proofs.resume_report import Crossing, ResumeReport
from ptinspect.proofs.roundtrip import FORMS, PARTS, Form, RoundtripReport
from ptinspect.proofs.script_report import CAUSES, Checkpoint, Item, Kill, ScriptReport, Steps
from ptinspect.proofs.script_runs import Difference as StepDifference
from tests.conftest import FIXTURES

jsonschema = pytest.importorskip("jsonschema")

NAMES = ("optimizer", "resume", "roundtrip", "script")
HERE = files("ptinspect.proofs")
SCHEMAS: dict[str, Any] = {
    name: json.loads(HERE.joinpath(f"check-{name}.schema.json").read_text("utf-8"))
    for name in NAMES
}


def valid(name: str, made: dict[str, object]) -> Any:
    """What a program reads, once the schema has nothing against it."""
    read = json.loads(json_value(made))
    jsonschema.Draft202012Validator(SCHEMAS[name]).validate(read)
    described = set(re.findall(r'"(\w+)":', json.dumps(SCHEMAS[name])))
    assert set(re.findall(r'"(\w+)":', json.dumps(read))) <= described
    return read


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["title"] == f"ptinspect check {name} --format json"


def test_every_optimizer_of_the_fixtures() -> None:
    from ptinspect.errors import PtInspectError

    paths = sorted([*(FIXTURES / "checkpoints").iterdir(), *(FIXTURES / "optimizers").glob("*.pt")])
    seen = set()
    for path in paths:
        try:
            report = optimizer.check_optimizer(str(path))
        except PtInspectError:
            continue
        seen.add(valid("optimizer", report.as_dict())["verdict"])
    assert seen == {"fits", "differs"}


FACTS = {
    "device": "cpu", "optimizer": "torch.optim.SGD", "scheduler": None, "per_step": False,
    "scaler": False, "autocast": None, "averages": 0, "rng_saved": ["torch"], "length": 3,
    "batches_used": None, "loss": "MSELoss",
}  # fmt: skip


ENVIRONMENT = {
    "torch": "2.9.0", "python": "3.12.1", "system": "Linux", "device_name": "NVIDIA H100",
    "driver": "580.95.05", "cuda": "13.0", "cudnn": 91200,
    "precision": {"matmul": "ieee", "cudnn": "tf32", "deterministic": True},
}  # fmt: skip


def report(**more: Any) -> ResumeReport:
    made = ResumeReport(
        "x.pt", "same", None, [], [], FACTS, ([1.0, float("nan")], [1.0, float("inf")]), 1, 2, [],
        ["wrong"], ["undecided"], ENVIRONMENT, "ptinspect check resume x.pt",
    )  # fmt: skip
    return replace(made, **more)


def test_what_resume_may_answer() -> None:
    assert valid("resume", report().as_dict())["losses"]["uninterrupted"] == [1.0, "nan"]
    cause = Cause("rng", ("rng-torch",), "a message")
    more = report(verdict="differs", first=Difference(1, "the loss"), causes=[cause], notes=["x"])
    assert valid("resume", more.as_dict())["causes"][0]["fixes"] == ["rng-torch"]
    tensors = (("float32", float("inf"), "weights a"),)
    for crossing in (
        Crossing("cuda", "cpu", [], None, 1.0, 2.0, "float32", tensors),
        Crossing("cuda", "cpu", None, "it cannot be run"),
        Crossing("cpu", "cuda", ["weights a"], None, 1.0, 2.0, "bfloat16", (), "bfloat16"),
    ):
        made = valid("resume", report(crossings=[crossing]).as_dict())
        assert made["crossings"][0]["saved_on"] == crossing.saved


def test_what_a_round_trip_may_answer() -> None:
    forms = [Form("state_dict", []), Form("checkpoint", ["weights"]), Form("safetensors", [], "no")]
    assert [form.name for form in forms] == list(FORMS)
    made = RoundtripReport(
        "x.pt", forms, 4, "SGD", "cpu", "MSELoss", ["made up"], [], ENVIRONMENT, "ptinspect"
    )
    assert valid("roundtrip", made.as_dict())["verdict"] == "differs"
    assert next(iter(PARTS)) == "weights"


def test_what_a_script_may_answer() -> None:
    bare = ScriptReport("python train.py", "same", ["a.pt"], ["note"], None, "ptinspect check")
    assert valid("script", bare.as_dict())["kill"] is None
    items = (Item("ema.weight", "tensor", "ema.weight"), Item("a.json", "file", "the bytes"))
    made = replace(
        bare, verdict="differs", environment=ENVIRONMENT, causes=["average"],
        first=StepDifference(9, "lr before step 9", "scheduler", "1", "2"),
        different=[Checkpoint("a.pt", None, items)], not_compared=["time"],
        kill=Kill(2, "save", ["a.pt"]), steps=Steps(9, 8, 4, 5), output=["last line"],
    )  # fmt: skip
    assert valid("script", made.as_dict())["causes"][0]["mend"] == CAUSES["average"][1]
    assert sorted(CAUSES) == SCHEMAS["script"]["$defs"]["kind"]["enum"]


def kinds(*modules: Any) -> set[str]:
    """Kinds as the source writes them."""
    text = "".join(Path(module.__file__).read_text("utf-8") for module in modules)
    found = re.findall(r'(?:Cause|Fault|fault|undecided)\)?\(\s*"([a-z-]+)"', text)
    found += re.findall(r'\bkind\s*=\s*"([a-z-]+)"', text)
    return set(found)


def test_every_kind_of_cause_is_in_the_schema_and_the_other_way_round() -> None:
    listed = set(SCHEMAS["resume"]["$defs"]["cause"]["properties"]["kind"]["enum"])
    assert {name.partition(":")[0] for name in causes.TEXTS} == listed
    assert kinds(causes, proof, reports) == set()


def test_every_kind_of_fault_is_in_the_schema() -> None:
    from ptinspect.document.optim import check, copies

    listed = set(SCHEMAS["optimizer"]["$defs"]["fault"]["properties"]["kind"]["enum"])
    assert kinds(check, copies, matching) == listed
