"""Does an optimizer's state fit its model: every optimizer of torch, and each fault by itself.

The check itself imports no torch; torch only writes the files here.
"""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptinspect.document import open as open_document
from ptinspect.document.optim.check import OptimizerFit, check_optimizers, fit_line
from tests.conftest import FIXTURES, ROOT

torch = pytest.importorskip("torch")
from torch import nn, optim  # noqa: E402

MAKE: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: optim.SGD(p, lr=0.1),
    "sgd-momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd-nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: optim.Adam(p),
    "adam-amsgrad": lambda p: optim.Adam(p, amsgrad=True),
    "adamw": lambda p: optim.AdamW(p),
    "adam-tensor-lr": lambda p: optim.Adam(p, lr=torch.tensor(0.01)),
    "adamax": lambda p: optim.Adamax(p),
    "nadam": lambda p: optim.NAdam(p),
    "radam": lambda p: optim.RAdam(p),
    "rmsprop": lambda p: optim.RMSprop(p),
    "rmsprop-centered": lambda p: optim.RMSprop(p, centered=True, momentum=0.5),
    "rprop": lambda p: optim.Rprop(p),
    "adagrad": lambda p: optim.Adagrad(p),
    "adadelta": lambda p: optim.Adadelta(p),
    "asgd": lambda p: optim.ASGD(p),
    "adafactor": lambda p: optim.Adafactor(p),
    "lbfgs": lambda p: optim.LBFGS(p, max_iter=2),
}


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1))


def trained(make: Callable[[Any], Any], model: Any = None, parameters: Any = None) -> Any:
    """A checkpoint after two steps."""
    model = network() if model is None else model
    optimizer = make(model.parameters() if parameters is None else parameters)
    scheduler = None if len(optimizer.param_groups) > 1 else optim.lr_scheduler.StepLR(optimizer, 1)
    x, y = torch.randn(4, 2), torch.randn(4, 1)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
        if scheduler is not None:
            scheduler.step()
    made = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}
    if scheduler is not None:
        made["scheduler"] = scheduler.state_dict()
    return copy.deepcopy(made)


def checked(value: object) -> OptimizerFit:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    with open_document(buffer) as document:
        (found,) = check_optimizers(document)
    return found


def kinds(value: object) -> list[str]:
    return [fault.kind for fault in checked(value).faults]


@pytest.mark.parametrize("name", MAKE)
def test_a_sound_one_fits_and_each_parameter_is_known(name: str) -> None:
    found = checked(trained(MAKE[name]))
    assert (found.faults, found.undecided) == ([], [])
    assert found.model == ("model",)
    assert found.names == [name for name, _ in network().named_parameters()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_state_of_a_model_in_half_precision_is_float32(dtype: torch.dtype) -> None:
    made = trained(MAKE["adam"])
    made["model"] = {key: tensor.to(dtype) for key, tensor in made["model"].items()}
    assert checked(made).faults == []  # as Ultralytics and FP16_Optimizer save it
    state_of(made)[1]["exp_avg"] = state_of(made)[1]["exp_avg"].double()
    assert kinds(made) == ["dtype"]


def test_sound_ones_of_other_kinds_fit() -> None:
    model = network()
    split = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[3].parameters()}]
    assert not kinds(trained(MAKE["adam"], model, split))
    model = network()
    model[0].requires_grad_(False)
    assert not kinds(trained(MAKE["adam"], model))
    assert not kinds(trained(MAKE["adam"], network().bfloat16().float(), None))
    model = network()
    named = trained(MAKE["adam"], model, model.named_parameters())
    assert checked(named).names[0] == "0.weight"
    sparse = nn.Embedding(5, 2, sparse=True)
    optimizer = optim.SparseAdam(sparse.parameters())
    sparse(torch.tensor([1])).sum().backward()
    optimizer.step()
    assert not kinds({"model": sparse.state_dict(), "optimizer": optimizer.state_dict()})
    muon = optim.Muon([model[0].weight])
    muon.step()
    assert not kinds({"model": model.state_dict(), "optimizer": muon.state_dict()})


def test_complex_parameters_fit() -> None:
    """The flat vectors of LBFGS have two numbers per complex one."""
    model = nn.Linear(2, 3).to(torch.complex64)
    optimizer = optim.LBFGS(model.parameters(), max_iter=2)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2, dtype=torch.complex64)).abs().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    optimizer.step(closure)
    found = checked({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert (found.faults, found.undecided) == ([], [])


@pytest.mark.parametrize("groups", [[], [{"params": [], "lr": 0.1}]])
def test_an_optimizer_of_nothing_is_undecided(groups: list[Any]) -> None:
    optimizer = {"state": {}, "param_groups": groups}
    found = checked({"model": network().state_dict(), "optimizer": optimizer})
    assert [fault.kind for fault in found.undecided][:1] == ["group-size"]


@pytest.mark.parametrize("digits", [400, 5000])
def test_numbers_that_no_training_has(digits: int) -> None:
    """Too large for a float, or with more digits than Python writes."""
    huge = 10**digits
    made = trained(MAKE["adam"])
    state, groups = made["optimizer"]["state"], made["optimizer"]["param_groups"]
    assert kinds({**made, "epoch": huge}) == []
    made["scheduler"] |= {"last_epoch": -huge, "_last_lr": [huge]}
    assert kinds(made) == ["lr"]
    assert [fault.kind for fault in checked(made).undecided] == ["counter"]
    del made["scheduler"]
    groups[0]["lr"] = huge
    state[1]["step"] = -huge
    state[2]["step"] = torch.tensor(float("inf"))
    groups[0]["params"][3] = huge
    assert sorted(kinds(made)) == ["extra-state", "lr", "nan", "step", "step"]
    groups[0]["params"] = [huge] * 4
    assert "duplicate" in kinds(made)


def test_one_optimizer_over_two_models_fits() -> None:
    one, two = nn.Linear(2, 3), nn.Linear(3, 2)
    optimizer = optim.Adam([*one.parameters(), *two.parameters()])
    two(one(torch.ones(1, 2))).sum().backward()
    optimizer.step()
    made = {"G": one.state_dict(), "D": two.state_dict(), "optimizer": optimizer.state_dict()}
    assert not kinds(made)


def test_an_optimizer_pickled_whole_with_its_model_fits() -> None:
    model = network()
    optimizer = optim.Adam(model.parameters())
    model(torch.randn(3, 2)).square().sum().backward()  # each parameter gets a gradient
    optimizer.step()
    found = checked({"model": model, "optimizer": optimizer, "epoch": 1})
    assert (found.faults, found.undecided) == ([], [])
    assert found.names[0] == "0.weight"


# --- faults, each by itself ---------------------------------------------------------------


def state_of(made: Any) -> Any:
    return made["optimizer"]["state"]


def empty(made: Any) -> None:
    made["optimizer"]["state"] = {}


def more_parameters(made: Any) -> None:
    made["optimizer"]["param_groups"][0]["params"] += [6, 7, 8]


def other_order(made: Any) -> None:
    state = state_of(made)
    made["optimizer"]["state"] = dict(enumerate([state[4], state[5], *map(state.get, range(4))]))


def other_shape(made: Any) -> None:
    state_of(made)[0]["exp_avg"] = torch.zeros(7, 7)


def half(made: Any) -> None:
    state_of(made)[3]["exp_avg_sq"] = state_of(made)[3]["exp_avg_sq"].half()


def lost_key(made: Any) -> None:
    del state_of(made)[2]["exp_avg_sq"]


def lost_value(made: Any) -> None:
    state_of(made)[2]["exp_avg_sq"] = None


def nan_setting(made: Any) -> None:
    made["optimizer"]["param_groups"][0]["betas"] = (0.9, float("nan"))


def nan_in_a_group(made: Any) -> None:
    made["optimizer"]["param_groups"][0]["scales"] = torch.tensor([1.0, float("nan")])


def infinite_copy_of_the_weights(made: Any) -> None:
    made["optimizer"]["master"] = [{"w": torch.tensor([1.0, float("inf")])}]


def extra(made: Any) -> None:
    state_of(made)[9] = state_of(made)[0]


def twice(made: Any) -> None:
    made["optimizer"]["param_groups"][0]["params"][1] = 0


def other_step(made: Any) -> None:
    state_of(made)[1]["step"] = torch.tensor(7.0)


def odd_step(made: Any) -> None:
    state_of(made)[1]["step"] = torch.tensor(1.5)


def other_rate(made: Any) -> None:
    made["optimizer"]["param_groups"][0]["lr"] = 0.5


def negative_rate(made: Any) -> None:
    made["optimizer"]["param_groups"][0]["lr"] = -0.5
    del made["scheduler"]


def nan(made: Any) -> None:
    state_of(made)[4]["exp_avg"][0, 1] = float("nan")


def infinite(made: Any) -> None:
    state_of(made)[4]["exp_avg_sq"][0, 1] = float("inf")


def negative(made: Any) -> None:
    state_of(made)[4]["exp_avg_sq"][0, 1] = -1e-9


def zeroed(made: Any) -> None:
    for state in state_of(made).values():
        state["exp_avg"].zero_()


def reset(made: Any) -> None:
    for state in state_of(made).values():
        state["exp_avg"].zero_()
        state["exp_avg_sq"].zero_()


FAULTS = {
    empty: "missing-state", more_parameters: "group-size", other_order: "order",
    other_shape: "shape", half: "dtype", lost_key: "missing-state", extra: "extra-state",
    lost_value: "missing-state", nan_setting: "nan",
    nan_in_a_group: "nan", infinite_copy_of_the_weights: "nan",
    twice: "duplicate", other_step: "step", odd_step: "step", other_rate: "lr",
    negative_rate: "lr", nan: "nan", infinite: "nan",
    negative: "negative", zeroed: "zero", reset: "zero",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found_and_named(fault: Callable[[Any], None]) -> None:
    made = trained(MAKE["adam"])
    fault(made)
    assert FAULTS[fault] in kinds(made)


NONSENSE: dict[type, dict[str, Any]] = {
    optim.Adam: {"betas": (1.5, 0.9), "eps": -1e-8, "weight_decay": -0.1},
    optim.AdamW: {"betas": (0.9, 1.0)},
    optim.NAdam: {"momentum_decay": -1.0},
    optim.SparseAdam: {"eps": 0.0},
    optim.Adadelta: {"rho": 1.5},
    optim.Adagrad: {"lr_decay": -1.0, "initial_accumulator_value": -1.0},
    optim.RMSprop: {"alpha": -1.0, "momentum": -0.5},
    optim.Rprop: {"etas": (1.5, 1.2)},
    optim.SGD: {"momentum": -0.9, "weight_decay": -1.0, "nesterov": True},
    optim.Adafactor: {"beta2_decay": 0.5, "d": 0.5, "eps": (1.0, -1.0)},
}


@pytest.mark.parametrize(
    ("cls", "key", "value"),
    [
        *((cls, *item) for cls, settings in NONSENSE.items() for item in settings.items()),
        *((optim.Adam, key, float("nan")) for key in ("lr", "eps", "weight_decay")),
        (optim.SGD, "lr", -0.1), (optim.Adam, "lr", torch.tensor(float("nan"))),
    ],
)  # fmt: skip
def test_settings_that_the_constructor_refuses(cls: Any, key: str, value: Any) -> None:
    """torch raises for each of them when an optimizer is made, and not when its state is loaded."""
    with pytest.raises(ValueError):
        cls([nn.Parameter(torch.ones(2))], **{key: value})
    optimizer = cls([nn.Parameter(torch.ones(2))])
    assert kinds({"optimizer": optimizer.state_dict()}) == []
    for number in (value, torch.tensor(value) if isinstance(value, float) else value):
        optimizer.param_groups[0][key] = number
        made = {"optimizer": optimizer.state_dict()}
        (fault,) = checked(made).faults
        assert fault.kind in ("setting", "lr", "nan")
        assert {"lr": "learning rate"}.get(key, key) in fault.message


def test_settings_without_a_rule_of_torch() -> None:
    """torch takes infinity and, of SGD, NaN; of an unknown class no rule is known."""
    for cls, key, value, kind in ((optim.Adam, "eps", float("inf"), "setting"),
                                  (optim.SGD, "momentum", float("nan"), "nan"),
                                  (optim.ASGD, "lr", float("inf"), "lr")):  # fmt: skip
        made = {"optimizer": cls([nn.Parameter(torch.ones(2))], **{key: value}).state_dict()}
        assert [fault.kind for fault in checked(made).faults] == [kind]
    groups = [{"params": [0], "lr": 0.1, "betas": (1.5, 0.9, 0.99), "trust": 2}]
    found = checked({"optimizer": {"state": {}, "param_groups": groups}})
    assert found.fits
    assert "setting" in [doubt.kind for doubt in found.undecided]


@pytest.mark.parametrize(
    ("settings", "keys", "is_of_torch"),
    [
        ({"amsgrad": False}, {"exp_avg": (2, 2), "exp_avg_var": (2, 2)}, False),  # AdaBelief
        ({"amsgrad": False, "grad_averaging": True}, {"exp_avg_sq": ()}, False),  # NovoGrad
        ({"rho": 0.05, "amsgrad": False}, {"exp_avg": (2, 2), "exp_avg_sq": (2, 2)}, True),  # SAM
        ({"amsgrad": False, "step": 1}, {"exp_avg": (2, 2), "exp_avg_sq": (2, 2)}, True),
        ({"scale": 1}, {"exp_avg_sq": (2, 1)}, False),  # Nero
    ],
)
def test_classes_that_are_not_of_torch_use_its_names(
    settings: dict[str, Any], keys: dict[str, tuple[int, ...]], is_of_torch: bool
) -> None:
    state = {key: torch.ones(shape) for key, shape in keys.items()}
    if "rho" in settings:
        state["step"] = torch.tensor(1.0)
    group = {"lr": -1e-18, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1, **settings}
    groups = [{**group, "params": [0]}]
    made = {"model": {"weight": torch.ones(2, 2)},
            "optimizer": {"state": {0: state}, "param_groups": groups}, "epoch": 1}  # fmt: skip
    fit = checked(made)
    assert fit.fits, fit.faults
    assert bool(fit.optimizer.class_path) == is_of_torch


def test_tensors_beside_state_and_groups_are_listed() -> None:
    made = trained(MAKE["adam"])
    made["optimizer"]["fp32_groups"], made["optimizer"]["scale"] = [torch.ones(3)], torch.ones(())
    buffer = io.BytesIO()
    torch.save(made, buffer)
    with open_document(io.BytesIO(buffer.getvalue())) as document:
        listed = {info.key: info.role for info in document.tensors.values()}
    assert listed["optimizer.fp32_groups.0"] == listed["optimizer.scale"] == "optimizer"


@pytest.mark.filterwarnings("ignore:.*torch.distributed")
def test_a_distributed_checkpoint_may_have_strings_as_keys_and_the_merged_file_not(
    tmp_path: Path,
) -> None:
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    tools = pytest.importorskip("torch.distributed.checkpoint.format_utils")
    saved = trained(MAKE["adam"])
    checkpoint.save(saved, checkpoint_id=tmp_path / "dcp")
    with open_document(tmp_path / "dcp") as document:
        (fit,) = check_optimizers(document)
        assert fit.fits and fit.model == ("model",)
    checkpoint.load(saved, checkpoint_id=tmp_path / "dcp")
    assert list(state_of(saved)) == [0, 1, 2, 3, 4, 5]

    tools.dcp_to_torch_save(tmp_path / "dcp", tmp_path / "merged.pt")
    optimizer = MAKE["adam"](network().parameters())
    optimizer.load_state_dict(torch.load(tmp_path / "merged.pt")["optimizer"])
    assert not any(optimizer.state[p] for p in optimizer.param_groups[0]["params"])
    with open_document(tmp_path / "merged.pt") as document:
        (fit,) = check_optimizers(document)
        assert "the keys of the state are strings" in fit.faults[0].message


def test_where_nan_is_told_by_name() -> None:
    made = trained(MAKE["adam"])
    nan(made)
    (fault,) = checked(made).faults
    assert (fault.parameter, fault.message) == ("3.weight", "exp_avg contains NaN")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("size", [3, 300_000])  # the second is read by numpy
def test_nan_and_inf_are_seen_in_every_type(dtype: str, size: int) -> None:
    from ptinspect.document.to_array import numbers_of

    def of(value: float) -> str | None:
        tensor = torch.ones(size, dtype=getattr(torch, dtype))
        tensor[size // 2] = value
        buffer = io.BytesIO()
        torch.save(tensor, buffer)
        buffer.seek(0)
        with open_document(buffer) as document:
            (info,) = document.contents.tensors
            return numbers_of(info.tensor).non_finite

    assert [of(2.0), of(float("inf")), of(float("nan"))] == [None, "inf", "NaN"]


@pytest.mark.parametrize("name", ["adam", "sgd-momentum", "rmsprop", "lbfgs", "adafactor"])
def test_an_empty_state_is_missing_only_once_training_has_begun(name: str) -> None:
    made = trained(MAKE[name])
    empty(made)
    assert kinds(made) == ["missing-state"]
    made["epoch"] = 0
    assert kinds(made) == ["missing-state"]  # the scheduler has made steps
    del made["scheduler"]
    found = checked(made)
    assert not found.faults
    assert [doubt.kind for doubt in found.undecided] == ["missing-state", "lr"]


def test_what_is_undecided_is_no_fault() -> None:
    made = trained(MAKE["adam"])
    del state_of(made)[4]
    found = checked(made)
    assert found.fits
    assert [(doubt.kind, "3.weight" in doubt.message) for doubt in found.undecided] == [
        ("missing-state", True)
    ]
    unfrozen_later = trained(MAKE["adam"])
    for at in (4, 5):
        state_of(unfrozen_later)[at]["step"] = torch.tensor(1.0)
    found = checked(unfrozen_later)
    assert (found.fits, [doubt.kind for doubt in found.undecided]) == (True, ["step"])


def test_buffers_given_to_the_optimizer_are_told() -> None:
    model = network()
    everything = [value for value in model.state_dict().values() if value.is_floating_point()]
    parameters = dict(model.named_parameters())
    mixed = [parameters.get(name, value) for name, value in model.state_dict().items()]
    mixed = [value for value in mixed if value.is_floating_point()]
    assert len(everything) == len(mixed) == 8
    found = checked(trained(MAKE["adam"], model, mixed))
    assert "buffers" in [doubt.kind for doubt in found.undecided]
    assert found.names[4:6] == ["1.running_mean", "1.running_var"]


def test_the_line_of_show() -> None:
    def line(value: object) -> str | None:
        buffer = io.BytesIO()
        torch.save(value, buffer)
        buffer.seek(0)
        with open_document(buffer) as document:
            return fit_line(document)

    made = trained(MAKE["adam"])
    assert line(made) == "yes, model"
    assert line(made["model"]) is None
    assert line(made["optimizer"]) == "undecided: the file has no weights"
    empty(made)
    assert line(made) == "no: the state is empty at epoch 1; Adam always has some after a step"


def test_the_line_of_show_with_several_optimizers_names_the_one() -> None:
    one, two = trained(MAKE["adam"]), trained(MAKE["adam"])
    lost_key(two)
    buffer = io.BytesIO()
    torch.save({"G": one, "D": two}, buffer)
    buffer.seek(0)
    with open_document(buffer) as document:
        line = fit_line(document)
    assert line == "no: D.optimizer: 1.weight: its state lacks exp_avg_sq"


def test_the_line_of_show_reads_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a network each tensor would be a request of its own."""
    from ptinspect.document.optim import check

    buffer = io.BytesIO()
    torch.save(trained(MAKE["adam"]), buffer)
    buffer.seek(0)
    with open_document(buffer) as document:
        assert document.optimizers
        monkeypatch.setattr(type(document._source), "read", None)
        monkeypatch.setattr(check, "number_of", None)
        assert fit_line(document) == "yes, model"


def test_many_optimizers_beside_many_models_take_no_time_squared() -> None:
    """Counted, not timed: the models that are tried."""
    from ptinspect.document.optim import matching

    tried = 0
    original = matching._match

    def counted(slots: Any, weights: Any) -> Any:
        nonlocal tried
        tried += 1
        return original(slots, weights)

    many = 300
    made: dict[str, Any] = {}
    for number in range(many):  # no optimizer fits any model
        made[f"model{number}"] = {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}
        state = {at: {"step": 1, "exp_avg": torch.zeros(5), "exp_avg_sq": torch.zeros(5)}
                 for at in range(2)}  # fmt: skip
        group = {"params": [0, 1], "lr": 1, "betas": (0, 0), "eps": 0, "amsgrad": False}
        made[f"optimizer{number}"] = {"state": state, "param_groups": [group]}
    buffer = io.BytesIO()
    torch.save(made, buffer)
    buffer.seek(0)
    with pytest.MonkeyPatch.context() as patch, open_document(buffer) as document:
        patch.setattr(matching, "_match", counted)
        found = check_optimizers(document, values=False)
    assert [one.fits for one in found] == [False] * many
    assert tried <= many * matching.MAX_MODELS


def test_show_loads_the_check_only_for_a_file_with_an_optimizer() -> None:
    """Start-up time counts: most files have none."""
    files = ("seed/model.pth", "seed/checkpoint-6.pt")
    code = f"""
import sys
from ptinspect.cli import cli
for name in {files!r}:
    cli(["show", "fixtures/" + name], standalone_mode=False)
    print(sorted(n for n in sys.modules if n.startswith("ptinspect.document.optim.check")),
          {{"torch", "numpy", "json", "tempfile"}} & set(sys.modules), file=sys.stderr)
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr.splitlines() == ["[] set()", "['ptinspect.document.optim.check'] set()"]


def test_torch_is_not_imported() -> None:
    file = FIXTURES / "checkpoints/resumable.pt"
    code = f"""
import sys, ptinspect.document
from ptinspect.document.optim.check import check_optimizers
with ptinspect.document.open({str(file)!r}) as document:
    assert check_optimizers(document)[0].fits
print(*({{"torch", "numpy"}} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == ""


def test_a_file_cut_within_its_state_is_an_error(tmp_path: Path) -> None:
    from ptinspect.errors import DamagedError

    path = tmp_path / "cut.pt"
    data = (FIXTURES / "checkpoints/resumable.pt").read_bytes()
    path.write_bytes(data[:3000])
    with pytest.raises(DamagedError), open_document(str(path)) as document:
        check_optimizers(document)


@pytest.mark.parametrize("size", [3, 300_000])  # the second is read by numpy
def test_signs_and_zeros_are_seen(size: int) -> None:
    from ptinspect.document.to_array import numbers_of

    def facts(value: float) -> tuple[bool, bool]:
        tensor = torch.zeros(size)
        tensor[size // 2] = value
        buffer = io.BytesIO()
        torch.save(tensor, buffer)
        buffer.seek(0)
        with open_document(buffer) as document:
            (info,) = document.contents.tensors
            numbers = numbers_of(info.tensor)
        return numbers.is_negative, numbers.is_zero

    assert [facts(-1.0), facts(0.0), facts(1.0)] == [(True, False), (False, True), (False, False)]


def test_a_parameter_that_never_got_a_gradient_is_undecided() -> None:
    made = trained(MAKE["adam"])
    state_of(made)[4]["exp_avg"].zero_()
    state_of(made)[4]["exp_avg_sq"].zero_()
    result = checked(made)
    assert not result.faults
    assert [(doubt.kind, doubt.message) for doubt in result.undecided] == [
        ("zero", "3.weight never got a gradient other than zero")
    ]


def test_counters_that_contradict_each_other() -> None:
    made = {**trained(MAKE["adam"]), "epoch": 40}
    (doubt,) = checked(made).undecided
    assert (doubt.kind, doubt.message) == (
        "counter", "the optimizer has made 2 steps, but the recorded epoch is 40"
    )  # fmt: skip
    made = trained(MAKE["adam"])
    for state in state_of(made).values():
        state["step"] = torch.tensor(600.0)
    made["epoch"] = 40
    (doubt,) = checked(made).undecided
    assert "scheduler has made 2 steps, the optimizer 600, and the recorded epoch is 40" in (
        doubt.message
    )


def test_an_average_that_equals_the_model() -> None:
    made = trained(MAKE["adam"])
    made["ema"] = {key: value.clone() for key, value in made["model"].items()}
    (doubt,) = checked(made).undecided
    assert (doubt.kind, doubt.message.split(":")[0]) == (
        "average", "ema has the same numbers as the model"
    )  # fmt: skip
    made["ema"] = made["model"]
    (doubt,) = checked(made).undecided
    assert "the model's own tensors" in doubt.message
    made["ema"] = {key: value + 1 for key, value in made["model"].items()}
    assert not checked(made).undecided


class Tied(nn.Module):
    """A language model with one matrix for words, and a module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.body = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.twin, self.lm_head = self.body, nn.Linear(4, 7, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, x: Any) -> Any:
        return self.lm_head(self.twin(self.body(self.wte(x))))


def stored_twice(*changed: str) -> OptimizerFit:
    """The check of a state_dict without shared tensors; those of `changed` have other numbers."""
    torch.manual_seed(0)
    model = Tied()
    optimizer = optim.Adam(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.arange(7)).square().mean().backward()
        optimizer.step()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    for name in changed:
        weights[name] += 1
    return checked({"model": weights, "optimizer": optimizer.state_dict(), "epoch": 1})


def test_tied_weights_that_are_stored_twice_fit() -> None:
    found = stored_twice()
    assert found.names == ["wte.weight", "body.weight", "body.bias"]
    assert (found.faults, found.undecided) == ([], [])


@pytest.mark.parametrize(("name", "is_certain"), [("adam", True), ("adagrad", False)])
def test_steps_that_begin_again(name: str, is_certain: bool) -> None:
    """Only Adagrad has a state before its first step."""
    made = {**trained(MAKE[name]), "epoch": 2}
    assert not checked(made).findings
    for state in made["optimizer"]["state"].values():
        state["step"] = torch.zeros(())
    (finding,) = checked(made).findings
    assert finding == ("step", "step is 0 at epoch 2", None, is_certain)


def test_the_vectors_of_spectral_norm_are_no_parameters() -> None:
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 3)), nn.Linear(3, 3))
    found = checked(trained(MAKE["adam"], model))
    assert found.names == [name for name, _ in model.named_parameters()]
    assert (found.faults, found.undecided) == ([], [])


@pytest.mark.parametrize("frozen", ["target_net", "q_target", "teacher", "critic.ref"])
def test_a_frozen_copy_that_comes_first_is_not_what_the_optimizer_covers(frozen: str) -> None:
    """As after each update of the target network of a DQN."""
    torch.manual_seed(0)
    online = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    optimizer = optim.Adam(online.parameters())
    online(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    own = online.state_dict()
    copy_ = {f"{frozen}.{name}": value.clone() for name, value in own.items()}
    weights = {**copy_, **{f"online.{name}": value for name, value in own.items()}}
    found = checked({"model": weights, "optimizer": optimizer.state_dict()})
    assert found.names == [f"online.{name}" for name in own]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [("lm_head.weight", "models usually tie it to wte.weight"),
     ("twin.weight", "its module is otherwise a copy of that of body.weight")],
)  # fmt: skip
def test_tied_weights_with_two_sets_of_numbers_are_undecided(changed: str, reason: str) -> None:
    """If one of them is frozen the file is right, and no file records what the model ties."""
    (doubt,) = stored_twice(changed).undecided
    assert (doubt.kind, doubt.parameter) == ("tied", changed)
    assert doubt.message.startswith(f"{reason}, and the optimizer has one state for both")


def test_no_other_weights_are_read_to_compare_tied_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from ptinspect.document.optim import copies

    read: list[Any] = []
    fingerprint = copies._fingerprint
    monkeypatch.setattr(copies, "_fingerprint", lambda t: read.append(t.shape) or fingerprint(t))
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    assert checked(trained(MAKE["adam"], model, list(model.parameters())[2:])).fits
    assert read == []


def test_two_parameters_of_one_shape_are_named_if_nothing_decides() -> None:
    (doubt,) = stored_twice("twin.weight", "twin.bias").undecided
    assert doubt.message.endswith(
        "state 1 may be of body.weight or twin.weight; one is frozen, or they are tied and have "
        "different numbers in the file"
    )


def test_equal_constants_are_no_copies() -> None:
    """Biases that were never trained are equal, and not tied."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    weights = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    optimizer = optim.Adam(list(model.parameters())[2:])
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    found = checked({"model": weights, "optimizer": optimizer.state_dict()})
    assert [doubt.kind for doubt in found.undecided] == ["names"]


def adversaries(sizes: tuple[int, int], **names: str) -> list[OptimizerFit]:
    """A generator that was trained, and a discriminator whose optimizer has made no step."""
    torch.manual_seed(0)
    first, second = (
        nn.Sequential(*(nn.Linear(width, 3 if width == 2 else 2) for width in (2, 3) * size))
        for size in sizes
    )
    trained_one, fresh = optim.Adam(first.parameters()), optim.Adam(second.parameters())
    first(torch.ones(1, 2)).sum().backward()
    trained_one.step()
    made = {
        "generator": first.state_dict(), "discriminator": second.state_dict(),
        names["first"]: trained_one.state_dict(), names["second"]: fresh.state_dict(),
    }  # fmt: skip
    buffer = io.BytesIO()
    torch.save(made, buffer)
    buffer.seek(0)
    with open_document(buffer) as document:
        return check_optimizers(document)


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize(
    ("first", "second"),
    [("optG", "optD"), ("optimizer_g", "optimizer_disc"), ("g_optim", "discriminator_optimizer")],
)
def test_an_optimizer_without_state_belongs_to_the_model_of_its_name(
    sizes: tuple[int, int], first: str, second: str
) -> None:
    found = adversaries(sizes, first=first, second=second)
    assert [fit.model for fit in found] == [("generator",), ("discriminator",)]
    assert [fault.kind for fit in found for fault in fit.findings] == ["missing-state"]


def test_the_number_of_parameters_decides_without_names() -> None:
    found = adversaries((2, 1), first="optimizer_1", second="optimizer_2")
    assert [fit.model for fit in found] == [("generator",), ("discriminator",)]


def test_an_optimizer_whose_model_is_in_another_file_is_undecided() -> None:
    """HiFi-GAN and its successors save `do_02500000` so, and the generator as `g_02500000`."""
    parts = [nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 5)]
    parts[2](parts[1](parts[0](torch.ones(1, 2)))).sum().backward()
    first, second, generator = parts
    both, other = (
        optim.AdamW([*second.parameters(), *first.parameters()]),
        optim.AdamW(generator.parameters()),
    )
    both.step(), other.step()
    made = {"mpd": first.state_dict(), "msd": second.state_dict()}
    made |= {"optim_g": other.state_dict(), "optim_d": both.state_dict()}
    buffer = io.BytesIO()
    torch.save(made, buffer)
    buffer.seek(0)
    with open_document(buffer) as document:
        of_generator, of_both = check_optimizers(document)
    assert of_both.fits and of_generator.fits
    assert of_both.names[0] == "msd.weight"
    assert [doubt.message for doubt in of_generator.undecided] == ["its model is not in the file"]
    del made["optim_d"]
    assert not checked(made).fits
    assert not checked({"ema": made["mpd"], "optim_g": made["optim_g"]}).fits


def test_an_optimizer_that_may_be_that_of_two_models_is_undecided() -> None:
    first, second = adversaries((1, 1), first="optimizer_1", second="optimizer_2")
    for fit in (first, second):
        assert (fit.model, fit.fits, set(fit.names)) == (None, True, {None})
        message = "it may be the optimizer of generator or discriminator: all fit"
        assert message in [fault.message for fault in fit.undecided]


@pytest.mark.parametrize("name", ["semantic", "schema", "swap"])
def test_a_part_whose_name_contains_ema_is_no_average(name: str) -> None:
    parts = {"backbone": nn.Linear(2, 2), name: nn.Linear(2, 2)}
    optimizer = optim.AdamW([p for part in parts.values() for p in part.parameters()])
    parts[name](parts["backbone"](torch.ones(1, 2))).sum().backward()
    optimizer.step()
    states = {key: part.state_dict() for key, part in parts.items()}
    found = checked({**states, "optimizer": optimizer.state_dict()})
    assert found.fits and not found.undecided, found
