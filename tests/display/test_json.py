from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

from ptinspect import __version__
from ptinspect.display import ShowOptions
from ptinspect.display.json import json_error, json_scalar, json_text, json_value
from ptinspect.errors import DamagedError, FormatError, Place
from tests.display.making import READ, document, shown, shown_value, truth_of
from tests.test_escape import any_text, hidden

SCHEMA = json.loads(files("ptinspect.display").joinpath("show.schema.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def valid(text: str) -> dict[str, Any]:
    """The object of a text that is valid by the shipped schema."""
    made: dict[str, Any] = json.loads(text)
    found = jsonschema.exceptions.best_match(VALIDATOR.iter_errors(made))
    assert found is None, f"{found.json_path}: {found.message}" if found else ""
    return made


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_whole_of_a_small_file() -> None:
    """As the design has it, key by key and in this order."""
    made = json.loads(shown("seed/model.pth", "json"))
    assert list(made) == [
        "schema", "ptinspect", "file", "content", "tensors", "modules", "entries", "optimizers",
        "totals", "globals", "load", "warnings",
    ]  # fmt: skip
    assert (made["schema"], made["ptinspect"]) == (1, __version__)
    assert made["file"].pop("path").endswith("seed/model.pth")
    assert made["file"] == {
        "size": 2709, "format": "torch-zip", "byteorder": "little", "pickle_protocol": 2,
    }  # fmt: skip
    assert made["content"] == {"kind": "module", "class": "__main__.CustomModel"}
    assert made["tensors"][0] == {
        "key": "layer.weight", "path": ["layer", "weight"], "role": "parameter",
        "persistent": True, "dtype": "float32", "shape": [1, 2], "stride": [2, 1],
        "storage_offset": 0, "layout": "strided", "device": "cuda:0", "requires_grad": True,
        "nbytes": 8,
        "storage": {"key": "0", "nbytes": 8, "record": "model/data/0", "file_offset": 1664},
    }  # fmt: skip
    assert list(made["tensors"][0])[:4] == ["key", "path", "role", "persistent"]
    assert made["modules"][1] == {
        "root": [], "name": "layer", "class": "torch.nn.modules.linear.Linear",
        "training": True, "extra_repr": "in_features=2, out_features=1, bias=True",
    }  # fmt: skip
    assert made["totals"] == {"tensors": 2, "parameters": 3, "nbytes": 12, "storage_nbytes": 12}
    assert {"name": "torch._utils._rebuild_tensor_v2", "count": 2} in made["globals"]
    assert made["load"]["needs"] == ["__main__.CustomModel"]
    assert made["load"]["map_location"] == "needed"


def test_the_bytes_lie_where_it_says() -> None:
    import struct

    made = json.loads(shown("seed/model_state_dict.pt", "json"))
    place = made["tensors"][0]["storage"]
    with open(made["file"]["path"], "rb") as file:
        file.seek(place["file_offset"])
        numbers = struct.unpack("<2f", file.read(place["nbytes"]))
    assert [round(number, 4) for number in numbers] == [3.1076, -1.7026]


def test_every_key_is_described() -> None:
    """What is put out stands in the schema, so that a reader finds what it means."""
    described = set(re.findall(r'"(\w+)":', json.dumps(SCHEMA)))
    for name in READ[::7]:
        made = json.loads(shown(name, "json", values=True, stats=True, hash=True))
        made.pop("entries")
        for found in made["optimizers"]:
            found.pop("param_groups")
        for module in made["modules"]:
            module.pop("attributes", None)  # keys are the names that a class chose
        for tensor in made["tensors"]:
            tensor.pop("values")
            tensor["parts"] = list(tensor.get("parts", {}).values())  # keys are the parts' names
        assert set(re.findall(r'"(\w+)":', json.dumps(made))) <= described


# --- values -------------------------------------------------------------------------------


def test_numbers_that_json_cannot_say() -> None:
    said = {"a": float("nan"), "b": float("inf"), "c": -float("inf"), "d": 10**5000, "e": -0.0}
    made = valid(shown_value(said, "json"))
    values = {entry["path"][0]: entry["value"] for entry in made["entries"]}
    assert (values["a"], values["b"], values["c"]) == ("nan", "inf", "-inf")
    assert values["d"] == hex(10**5000)
    assert str(values["e"]) == "-0.0"


def test_long_lists_tell_their_length() -> None:
    made = valid(shown_value({"milestones": list(range(100)), "short": [1, 2]}, "json"))
    long, short = made["entries"]
    assert (long["value"]["length"], long["value"]["head"][:3]) == (100, [0, 1, 2])
    assert short == {"path": ["short"], "type": "list", "value": [1, 2]}


@given(
    st.dictionaries(
        any_text, st.one_of(any_text, st.floats(), st.integers()), min_size=1, max_size=4
    )
)
def test_any_text_of_a_file_is_safe_and_read_back(value: dict[str, object]) -> None:
    text = json_text(document(value, protocol=4), ShowOptions(), None)
    assert hidden(text.replace("\n", "")) == []
    made = valid(text)
    told = [entry["path"][0].encode("utf-16", "surrogatepass") for entry in made["entries"]]
    assert told == [key.encode("utf-16", "surrogatepass") for key in value]


tree = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner)),
    max_leaves=12,
)


@given(tree)
def test_plain_is_json(value: object) -> None:
    endless = {float("inf"): "inf", -float("inf"): "-inf"}

    def as_said(item: Any) -> Any:
        if isinstance(item, list):
            return [as_said(one) for one in item]
        if isinstance(item, dict):
            return {key: as_said(one) for key, one in item.items()}
        return endless.get(item, item) if isinstance(item, float) else item

    assert json.loads(json_value(value)) == as_said(value)


def test_scalars_of_other_kinds_are_strings() -> None:
    assert json_scalar(1 + 2j) == '"(1+2j)"'
    assert json_scalar(True) == "true"


# --- errors -------------------------------------------------------------------------------


def test_an_error_has_its_place() -> None:
    error = DamagedError("it is cut off", where=Place("a/data.pkl", 12), hint="fetch it \x1b again")
    assert valid(json_error(error, "x.pt")) == {
        "schema": 1,
        "file": {"path": "x.pt"},
        "error": {
            "kind": "damaged",
            "message": "it is cut off",
            "where": {"record": "a/data.pkl", "offset": 12},
            "hint": "fetch it \x1b again",
        },
    }
    assert "\x1b" not in json_error(error, "x.pt")


def test_an_error_without_a_place() -> None:
    assert valid(json_error(FormatError("it is a PNG image"), "x.pt"))["error"] == {
        "kind": "format", "message": "it is a PNG image", "where": None, "hint": None,
    }  # fmt: skip


# --- options ------------------------------------------------------------------------------


def test_values_statistics_and_hashes_stand_beside_each_tensor() -> None:
    made = valid(shown("seed/model.pth", "json", values=True, stats=True, hash=True))
    weight = made["tensors"][0]
    assert [[round(n, 4) for n in row] for row in weight["values"]] == [[3.1076, -1.7026]]
    assert round(weight["stats"]["max"], 4) == 3.1076
    assert weight["sha256"] == truth_of("seed/model.pth")["tensors"][0]["sha256"]
