"""Nothing is clean by a reading that differs from the loader's; dangerous needs a reason."""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import ptinspect  # noqa: E402
from tests.safety.files import put, scanned, torch_zip, zipped  # noqa: E402
from tests.safety.making import START, args, call, name, new, path, plain, text, whole, worst  # noqa: E402


def _acts(code: str, *more: str) -> bool:
    """Return True if the code, in a process of its own, runs `echo marker`."""
    done = subprocess.run([sys.executable, "-c", code, *more], capture_output=True, text=True)
    return "marker" in done.stdout


MINE = name("mine", "thing")


class Acts:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("echo marker",)


def _encoded(data: bytes, codec: str) -> bytes:
    """Bytes as the text that this codec encodes to them."""
    return call(path("_codecs.encode"), text(data.decode(codec)), text(codec))


def test_bytes_are_encoded_by_the_codec_that_the_file_names(tmp_path: Path) -> None:
    """torch.load runs the payload; read as latin1, its text would be shorter and break it."""
    hidden = b"X\x02\x00\x00\x00\xc3\xa90cposix\nsystem\n(Vecho marker\ntR."
    load = path("torch.storage._load_from_bytes")
    data = torch_zip(b"\x80\x04" + call(load, _encoded(hidden, "utf-8")) + b".")
    file = put(tmp_path, data, "a.pt")
    assert ptinspect.scan(file).verdict == "dangerous"
    code = "import torch, sys; torch.load(sys.argv[1], weights_only=False)"
    assert _acts(code, str(file))


@pytest.mark.parametrize("codec", ["latin1", "latin-1", "iso-8859-1", "utf-8", "ascii"])
def test_plain_texts_are_clean_in_each_codec(codec: str) -> None:
    data = pickle.dumps({"a": 1}, 0)
    load = path("torch.storage._load_from_bytes")
    assert worst(whole(call(load, _encoded(data, codec)))) == "clean"


def test_bytes_of_a_joblib_array_are_opcodes_for_pickle(tmp_path: Path) -> None:
    wrapper = name("joblib.numpy_pickle", "NumpyArrayWrapper")
    dtype = call(path("numpy.dtype"), text("u1"), plain(False), plain(True))
    dtype += plain((3, "|", None, None, None, -1, -1, 0)) + b"b"
    hidden = b"0" + name("posix", "system") + text("echo marker") + b"\x85R."
    state = b"}(" + text("shape") + plain((len(hidden),)) + text("dtype") + dtype
    state += text("order") + text("C") + b"u"
    data = START + new(wrapper) + state + b"b" + hidden + b"."
    file = put(tmp_path, data, "a.pkl")
    assert ptinspect.scan(file).verdict == "dangerous"
    (tmp_path / "joblib").mkdir()
    (tmp_path / "joblib" / "__init__.py").write_text("")
    (tmp_path / "joblib" / "numpy_pickle.py").write_text("class NumpyArrayWrapper: pass\n")
    code = (
        "import pickle, sys; sys.path.insert(0, sys.argv[2]); pickle.load(open(sys.argv[1],'rb'))"
    )
    assert _acts(code, str(file), str(tmp_path))
    honest = START + new(wrapper) + state + b"b" + bytes(range(len(hidden))) + b"."
    assert ptinspect.scan(put(tmp_path, honest, "b.pkl")).verdict == "unknown"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_inputs_of_a_traced_module_have_no_data(tmp_path: Path) -> None:
    file = tmp_path / "traced.pt"
    torch.jit.trace(torch.nn.Linear(2, 3), torch.ones(1, 2)).save(str(file))
    report = ptinspect.scan(file)
    assert report.verdict == "unknown"
    assert "torchscript-code" in [finding.name for finding in report.findings]
    torch.jit.load(str(file))


CONSTRUCTED = {
    "an enum of deepspeed": call(path("deepspeed.runtime.zero.config.ZeroStageEnum"), plain(2)),
    "an enum of peft": call(path("peft.utils.peft_types.PeftType"), text("LORA")),
    "an enum of matplotlib": call(path("matplotlib._enums.CapStyle"), text("butt")),
    "an enum in capitals": call(path("PIL.ExifTags.GPS"), plain(1)),
    "an enum in capitals, private": call(path("urllib3.util.timeout._TYPE_DEFAULT"), plain(-1)),
    "an enum in lower case": call(path("httpx.codes"), plain(404)),
    "a dictionary of sqlalchemy": call(
        path("sqlalchemy.util._immutabledict_cy.immutabledict"), plain({})
    ),
    "counts of nltk": call(path("nltk.probability.FreqDist"), plain({"a": 1})),
    "a calendar": new(path("calendar.TextCalendar")),
    "a masked constant": call(path("numpy.ma.core.MaskedConstant")),
    "numpy's old random state": call(name("numpy.random", "__RandomState_ctor")),
    "a column of pyarrow": call(path("pyarrow.lib._restore_array"), args(plain(1))),
    "a length": call(path("builtins.len"), plain([])),
    "an output": call(path("transformers.modeling_outputs.BaseModelOutput"), plain(())),
}


@pytest.mark.parametrize("kind", CONSTRUCTED)
def test_what_is_only_constructed_is_not_dangerous(kind: str) -> None:
    assert worst(whole(CONSTRUCTED[kind])) != "dangerous"
    assert worst(whole(call(path("deepspeed.runtime.engine.run"), plain(2)))) == "dangerous"


@pytest.mark.parametrize("inserted", ["\\u0059", "\\n", "\\u000a", " ", "!", "-", '\\"', "\\u0022"])
def test_base64_in_json_is_read_as_b64decode_reads_it(tmp_path: Path, inserted: str) -> None:
    """Stable-Baselines3 loads `data` so; b64decode skips what is not in its alphabet."""
    for protocol in (0, 2, 4):
        text = base64.b64encode(pickle.dumps(Acts(), protocol)).decode()
        if inserted == "\\u0059":
            text = text.replace("Y", inserted)
        else:
            text = inserted.join(text[i : i + 9] for i in range(0, len(text), 9))
        data = '{"policy_class": {":serialized:": "' + text + '"}}'
        decoded = base64.b64decode(json.loads(data)["policy_class"][":serialized:"])
        assert decoded == pickle.dumps(Acts(), protocol)
        report = scanned(tmp_path, zipped(("data", data.encode())), "model.zip")
        assert report.verdict == "dangerous", protocol


@pytest.mark.parametrize(
    "codec", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
@pytest.mark.parametrize("inserted", ["", " "])
def test_json_is_decoded_as_json_loads_decodes_it(
    codec: str, inserted: str, tmp_path: Path
) -> None:
    payload = pickle.dumps(Acts())
    data = json.dumps({"a": inserted.join(base64.b64encode(payload).decode())}).encode(codec)
    assert base64.b64decode(json.loads(data)["a"]) == payload
    assert scanned(tmp_path, data, "config.json").verdict == "dangerous"
    assert scanned(tmp_path, zipped(("config.json", data)), "model.zip").verdict == "dangerous"
    harmless = json.dumps({"a": [1, None, "\u4e00"]}, ensure_ascii=False).encode(codec)
    assert scanned(tmp_path, harmless, "config.json").verdict == "clean"


@pytest.mark.parametrize("protocol", [2, 4])
def test_spacy_s_objects_hold_a_pickle_that_is_judged(protocol: int, tmp_path: Path) -> None:
    """unpickle_vocab and unpickle_doc load one of their arguments by pickle."""
    store = new(path("spacy.strings.StringStore"))

    def saved(data: bytes) -> dict[str, bytes]:
        stored = _encoded(data, "latin1") if protocol == 2 else plain(data)
        none = plain(None)
        vocab = call(path("spacy.vocab.unpickle_vocab"), *[store] * 3, none, stored, none, none)
        doc = call(path("spacy.tokens.doc.unpickle_doc"), store, stored, plain(b""))
        return {"vocab": whole(vocab), "doc": whole(doc)}

    for kind, data in saved(pickle.dumps({"a": len}, 2)).items():
        assert scanned(tmp_path, data, f"{kind}.pkl").verdict == "unknown", kind
    for kind, data in saved(pickle.dumps(Acts(), 2)).items():
        assert scanned(tmp_path, data, f"{kind}.pkl").verdict == "dangerous", kind
    computed = call(path("spacy.tokens.doc.unpickle_doc"), store, call(MINE), plain(b""))
    assert scanned(tmp_path, whole(computed), "computed.pkl").verdict == "dangerous"
    assert scanned(tmp_path, whole(call(path("spacy.vocab.unpickle_vocab")))).verdict == "dangerous"
