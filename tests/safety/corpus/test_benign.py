"""No file that harms nobody is called dangerous: files out of packages, and what libraries write.
tests/cli/test_convert_advice.py asks it of the fixtures."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import pytest

from ptinspect.safety.report import ScanReport
from ptinspect.safety.scan import scan
from tests.corpus.packages import MODELS, file_of
from tests.safety.corpus.benign import samples, write
from tests.safety.corpus.malicious import RANK


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ScanReport]:
    return {path.name: scan(path) for path in write(tmp_path_factory.mktemp("benign"))}


def test_what_harms_nobody_is_not_dangerous(reports: dict[str, ScanReport]) -> None:
    for sample in samples():
        report = reports[sample.name]
        why = [(found.chain, found.reason) for found in report.all_findings()]
        assert not report.errors, sample.name
        assert RANK[report.verdict] <= RANK[sample.most], (sample.name, why)


@pytest.mark.corpus
@pytest.mark.parametrize("model", MODELS, ids=lambda model: Path(model["member"]).name)
def test_no_file_of_a_package_is_dangerous(model: dict[str, Any]) -> None:
    report = scan(file_of(model))
    why = [(found.chain, found.reason) for found in report.all_findings()]
    assert report.verdict in ("clean", "unknown") or "error" in model, (why, report.errors)
    assert report.verdict != "dangerous", why


def of_sklearn() -> list[Any]:
    """Fitted models."""
    from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression, SGDClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    x, y = [[0.0, 1.0], [1.0, 0.0]] * 5, [0, 1] * 5
    made = [RandomForestClassifier(2), GradientBoostingClassifier(n_estimators=2), SVC()]
    made += [LogisticRegression(), SGDClassifier(), KNeighborsClassifier(2, algorithm="kd_tree")]
    made += [make_pipeline(StandardScaler(), LogisticRegression())]
    return [model.fit(x, y) for model in made]


def of_pandas() -> list[Any]:
    """Tables, and their labels."""
    import pandas as pd

    table = pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": pd.to_datetime(["2020", "2021"])})
    table["d"] = pd.Categorical(["u", "v"])
    stamps = pd.date_range("2020", periods=3, tz="UTC")
    return [table, table["b"], table.set_index(["a", "b"]), stamps, pd.Timestamp("2020"), pd.NaT]


def of_torch() -> list[Any]:
    """Whole objects of torch, such as people save."""
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.ReLU())
    adam = torch.optim.AdamW(net.parameters())
    net(torch.ones(3, 2)).sum().backward()
    adam.step()
    scheduler = torch.optim.lr_scheduler.StepLR(adam, 1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam)
    return [
        net, adam, scheduler, plateau.state_dict(), torch.Generator().get_state(),
        torch.utils.data.TensorDataset(torch.ones(2)), torch.distributions.Normal(0.0, 1.0),
        torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(1, 1)).state_dict(),
        {"amp": torch.amp.GradScaler("cpu").state_dict(), "d": torch.device("cpu")},
        torch.nn.Transformer(4, 1, 1, 1, 4), torch.nn.LSTM(1, 1), torch.nn.CrossEntropyLoss(),
        torch.sparse_coo_tensor([[0]], [1.0], (2,)), torch.Size([1]), torch.float16,
    ]  # fmt: skip


@pytest.mark.parametrize("library", ["sklearn", "pandas", "torch"])
def test_what_a_library_writes_is_not_dangerous(library: str, tmp_path: Path) -> None:
    pytest.importorskip(library)
    makers = {"sklearn": of_sklearn, "pandas": of_pandas, "torch": of_torch}
    for number, value in enumerate(makers[library]()):
        for protocol in (2, 4):
            path = tmp_path / f"{number}-{protocol}.pkl"
            path.write_bytes(pickle.dumps(value, protocol))
            report = scan(path)
            why = [(found.chain, found.reason) for found in report.all_findings()]
            assert report.verdict in ("clean", "unknown"), (type(value), why, report.errors)


def test_torch_s_own_files_are_not_dangerous(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for number, value in enumerate(of_torch()):
        for new in (True, False):
            file = io.BytesIO()
            torch.save(value, file, _use_new_zipfile_serialization=new)
            path = tmp_path / f"{number}-{new}.pt"
            path.write_bytes(file.getvalue())
            report = scan(path)
            why = [(found.chain, found.reason) for found in report.all_findings()]
            assert report.verdict in ("clean", "unknown"), (type(value), why, report.errors)
