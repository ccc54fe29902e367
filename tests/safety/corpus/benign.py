"""Files that harm nobody: what training scripts and packages leave behind. None of them may be
called dangerous, and what is of Python's, numpy's and torch's own must be clean."""

from __future__ import annotations

import argparse
import array
import collections
import datetime
import decimal
import enum
import fractions
import functools
import gzip
import io
import ipaddress
import logging
import lzma
import pathlib
import pickle
import random
import re
import types
import uuid
import zlib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tests.safety.corpus.building import npy, tensors, torch_records, zipped
from tests.safety.corpus.foreign import World

CLEAN, UNKNOWN = "clean", "unknown"


class Innocent(NamedTuple):
    """A file. most: the worst verdict that is still right."""

    name: str
    data: bytes
    most: str = UNKNOWN


class Colour(enum.Enum):
    """A user's own."""

    RED = 1


class Point(NamedTuple):
    """A user's own."""

    x: int


class Trainer:
    """A user's own, with methods."""

    best = 0.5

    def on_epoch_end(self) -> None:
        """Kept as a callback."""

    class Options:
        """A class within a class."""


def of_python() -> dict[str, tuple[Any, str]]:
    """Values of the standard library, and of a user's own classes."""
    generator = random.Random(0)
    utc = datetime.timezone.utc
    return {
        "plain": ({"a": [1, 2.5, None, True, b"x", "é", (1,), {1, 2}, frozenset("a")]}, CLEAN),
        "numbers": ([complex(1, 2), 1 << 100, float("nan"), decimal.Decimal("1.5")], CLEAN),
        "fractions": (fractions.Fraction(1, 3), CLEAN),
        "containers": (
            [collections.OrderedDict(a=1), collections.defaultdict(list, a=[1]),
             collections.defaultdict(dict), collections.defaultdict(int, a=1),
             collections.Counter("aab"), collections.deque([1], maxlen=3)], CLEAN),
        "dates": (
            [datetime.datetime(2024, 1, 2, tzinfo=utc), datetime.timedelta(1),
             datetime.date(2024, 1, 2), datetime.time(3)], CLEAN),
        "paths": (
            [pathlib.PurePosixPath("/a/b"), pathlib.PureWindowsPath("c:/a"), Path("runs/x")],
            CLEAN),
        "namespace": (argparse.Namespace(lr=0.1, out=Path("x"), device="cuda:0"), CLEAN),
        "simple-namespace": (types.SimpleNamespace(a=1), CLEAN),
        "uuid": (uuid.UUID(int=7), CLEAN),
        "address": (ipaddress.ip_address("127.0.0.1"), CLEAN),
        "random": ([generator, generator.getstate()], CLEAN),
        "regex": (re.compile("a+"), CLEAN),
        "array": (array.array("f", [1, 2]), CLEAN),
        "bytes-io": ([io.BytesIO(b"x"), io.StringIO("x")], CLEAN),
        "errors": ([ValueError("x"), KeyError("y"), OSError(2, "no")], CLEAN),
        "types": ([int, str, float, bool, dict, type(None), type(...)], CLEAN),
        "constants": ([Ellipsis, NotImplemented, None], CLEAN),
        "slices": ([range(3), bytearray(b"abc")], CLEAN),
        "builtin-functions": ([len, max, sorted], UNKNOWN),
        "logger": (logging.getLogger("train"), UNKNOWN),
        "enum": ({"colour": Colour.RED, Colour.RED: 1}, UNKNOWN),
        "named-tuple": ([Point(1), Point(2)], UNKNOWN),
        "own-object": (Trainer(), UNKNOWN),
        "own-class": ([Trainer, Trainer.Options], UNKNOWN),
        "bound-method": ({"callback": Trainer().on_epoch_end}, UNKNOWN),
        "bound-method-of-a-list": ([[1].append, "a".join, {}.get], UNKNOWN),
        "partial": (functools.partial(Trainer), UNKNOWN),
        "partial-of-python": (functools.partial(int, base=2), UNKNOWN),
    }  # fmt: skip


def of_numpy() -> dict[str, tuple[Any, str]]:
    """numpy's own."""
    import numpy as np

    rng = np.random.default_rng(0)
    structured = np.zeros(2, [("a", "f4"), ("b", "i8", (2,))])
    return {
        "array": (np.arange(6.0).reshape(2, 3), CLEAN),
        "fortran": (np.asfortranarray(np.ones((2, 3))), CLEAN),
        "sliced": (np.arange(9)[::2], CLEAN),
        "object-array": (np.array(["a", None, 1, [1]], dtype=object), CLEAN),
        "strings": (np.array(["a", "bcd"]), CLEAN),
        "bytes": (np.array([b"a", b"bcd"]), CLEAN),
        "texts": (np.char.array(["a", "bcd"]), CLEAN),
        "bool": (np.array([True]), CLEAN),
        "dates": (np.array(["2024-01-01"], dtype="M8[D]"), CLEAN),
        "structured": (structured, CLEAN),
        "record": (structured.view(np.recarray), CLEAN),
        "big-endian": (np.array([1, 2], ">i4"), CLEAN),
        "empty": (np.zeros((0, 3)), CLEAN),
        "scalar": ([np.float32(1), np.int64(2), np.bool_(True), np.str_("x")], CLEAN),
        "dtype": ([np.dtype("f8"), np.dtype([("a", "f4")]), np.float32], CLEAN),
        "masked": (np.ma.array([1, 2], mask=[False, True]), CLEAN),
        "random-state": (np.random.RandomState(0), CLEAN),
        "generator": (rng, CLEAN),
        "bit-generators": (
            [np.random.PCG64(1), np.random.MT19937(1), np.random.Philox(1), np.random.SFC64(1)],
            CLEAN),
        "state": (np.random.get_state(), CLEAN),
        "ufunc": (np.add, UNKNOWN),
        "functions": ([np.mean, np.argmax], UNKNOWN),
        "matrix": (np.ones((2, 2)).view(np.matrix), CLEAN),
        "poly": (np.poly1d([1, 2]), UNKNOWN),
        "vectorized": ({"metrics": {"loss": np.float64(0.5), "n": np.int32(3)}}, CLEAN),
    }  # fmt: skip


def of_packages() -> dict[str, Any]:
    """As packages leave them; the shapes are those of their own files."""
    import numpy as np

    w = World()
    ones = np.ones((2, 2))
    tree = w.reduced(
        "sklearn.tree._tree.Tree",
        2,
        np.array([1]),
        1,
        state={"max_depth": 1, "node_count": 3, "nodes": ones, "values": ones},
    )
    config = w.cls("omegaconf.dictconfig.DictConfig")
    metadata = w.obj(
        "omegaconf.base.ContainerMetadata",
        ref_type=Any,
        object_type=dict,
        optional=True,
        key=None,
        flags={},
        flags_root=False,
        resolver_cache={},
        key_type=Any,
        element_type=Any,
    )
    hydra = config()
    leaf = w.obj("omegaconf.nodes.AnyNode", _val=0.1, _metadata=metadata, _parent=hydra)
    hydra.__dict__.update(_metadata=metadata, _parent=None, _content={"lr": leaf}, _flags_cache={})
    boxes = w.obj("ultralytics.utils.IterableSimpleNamespace", save_dir=Path("runs/train"))
    trainer = w.obj("models.yolo.Trainer", args=boxes)
    trainer.__class__.preprocess = Trainer.on_epoch_end
    strategy = w.member("transformers.trainer_utils.IntervalStrategy", "no")
    device = w.reduced("torch.device", "cuda", 0)
    return {
        "sklearn-linear": w.pickled(w.obj(
            "sklearn.linear_model._logistic.LogisticRegression", coef_=ones, penalty="l2",
            classes_=np.array(["a", "b"]), _sklearn_version="1.7.0")),
        "sklearn-tree": w.pickled(w.obj(
            "sklearn.tree._classes.DecisionTreeClassifier", tree_=tree, n_classes_=np.int64(2))),
        "sklearn-forest": w.pickled(w.obj(
            "sklearn.ensemble._forest.RandomForestClassifier", estimators_=[tree],
            random_state=np.random.RandomState(0))),
        "sklearn-pipeline": w.pickled(w.obj("sklearn.pipeline.Pipeline", steps=[
            ("scale", w.obj("sklearn.preprocessing._data.StandardScaler", mean_=ones)),
            ("words", w.obj("sklearn.feature_extraction.text.TfidfVectorizer",
                            vocabulary_={"a": 1}, dtype=np.float64, tokenizer=None))])),
        "sklearn-neighbors": w.pickled(w.obj(
            "sklearn.neighbors._classification.KNeighborsClassifier",
            _tree=w.called("sklearn.neighbors._kd_tree.newObj", w.cls(
                "sklearn.neighbors._kd_tree.KDTree"), state=(ones, 1)))),
        "sklearn-loss": w.pickled(w.reduced("sklearn._loss._loss.CyHalfBinomialLoss")),
        "sklearn-bunch": w.pickled(w.mapping("sklearn.utils._bunch.Bunch", {"a": 1})),
        "sklearn-protocol-2": w.pickled(w.obj(
            "sklearn.svm.classes.SVC", kernel="rbf", _intercept_=ones), 2),
        "scipy-sparse": w.pickled(w.obj("scipy.sparse._csr.csr_matrix", data=ones)),
        "pandas-frame": w.pickled(w.obj(
            "pandas.core.frame.DataFrame", _mgr=w.reduced(
                "pandas.core.internals.managers.BlockManager", (w.called(
                    "pandas._libs.internals._unpickle_block", ones, slice(0, 1), 2),), []),
            _typ="dataframe", attrs={})),
        "pandas-index": w.pickled(w.called(
            "pandas.core.indexes.base._new_Index", w.cls("pandas.core.indexes.base.Index"),
            {"data": np.array(["a"], dtype=object), "name": None})),
        "pandas-timestamp": w.pickled(w.called(
            "pandas._libs.tslibs.timestamps._unpickle_timestamp", 1, None, None, 10)),
        "xgboost": w.pickled(w.obj(
            "xgboost.sklearn.XGBClassifier", _Booster=w.obj(
                "xgboost.core.Booster", handle=bytearray(b"binf")), n_estimators=3)),
        "lightgbm": w.pickled(w.obj(
            "lightgbm.basic.Booster", params={"a": 1}, _handle="tree\nversion=v4\n")),
        "catboost": w.pickled(w.obj("catboost.core.CatBoostClassifier", _init_params={"a": 1})),
        "omegaconf": w.pickled(hydra, 2),
        "hydra-in-checkpoint": w.pickled({"hyper_parameters": hydra, "epoch": 1}),
        "lightning": w.pickled({
            "epoch": 1, "state_dict": {}, "callbacks": {"ModelCheckpoint": {
                "best_model_path": "x", "dirpath": Path("a")}},
            "hyper_parameters": w.mapping(
                "pytorch_lightning.utilities.parsing.AttributeDict", {"lr": 0.1}),
            "lr_schedulers": [{"_get_lr_called_within_step": False}]}, 2),
        "lightning-2": w.pickled({"hyper_parameters": w.mapping(
            "lightning_fabric.utilities.data.AttributeDict", {"lr": 0.1})}),
        "yolo": w.pickled({"model": None, "train_args": {"save_dir": Path("runs")},
                           "args": boxes, "hook": trainer.preprocess}),
        "yolo-opt": w.pickled({"opt": argparse.Namespace(weights="a.pt", save=Path("x"))}, 2),
        "easydict": w.pickled(w.mapping("easydict.EasyDict", {"a": {"b": 1}}, a={"b": 1})),
        "addict": w.pickled(w.mapping("mmengine.config.config.ConfigDict", {"a": 1})),
        "mmcv": w.pickled({"meta": {"cfg": w.mapping("mmcv.utils.config.ConfigDict", {"a": 1}),
                                    "env_info": "x", "time": "now"}}, 2),
        "yacs": w.pickled(w.mapping("yacs.config.CfgNode", {"MODEL": "x"})),
        "detectron2": pickle.dumps({"model": {"w": ones}, "__author__": "x"}, 2),
        "training-arguments": w.pickled(w.obj(
            "transformers.training_args.TrainingArguments", output_dir="x",
            eval_strategy=strategy, _n_gpu=1)),
        "transformers-config": w.pickled(w.obj(
            "transformers.models.bert.configuration_bert.BertConfig", hidden_size=8)),
        "batch-encoding": w.pickled({"x": w.obj(
            "transformers.tokenization_utils_base.BatchEncoding", data={})}),
        "torchvision-transform": w.pickled(w.obj(
            "torchvision.transforms.transforms.Resize", size=256, interpolation=w.member(
                "torchvision.transforms.functional.InterpolationMode", "bilinear"))),
        "lr-scheduler": w.pickled({"scheduler": {"base_lrs": [0.1], "lr_lambdas": [None],
                                                 "milestones": collections.Counter([3])}}),
        "optimizer-whole": w.pickled(w.obj(
            "torch.optim.adam.Adam", param_groups=[{"lr": 0.1}],
            state=collections.defaultdict(dict), defaults={})),
        "torch-dataset": w.pickled(w.obj(
            "torch.utils.data.dataset.Subset", indices=[1], dataset=None)),
        "torch-transform": w.pickled({"device": device}),
        "fastai": w.pickled(w.obj(
            "fastai.learner.Learner", opt_func=functools.partial(
                w.function("fastai.optimizer.Adam"), mom=0.9), path=Path("."),
            items=w.obj("fastcore.foundation.L", items=[1]))),
        "gensim": w.pickled(w.obj(
            "gensim.models.keyedvectors.KeyedVectors", vectors=ones, vocab={"a": w.obj(
                "gensim.models.keyedvectors.Vocab", count=1, index=0)})),
        "nltk": w.pickled(w.obj(
            "nltk.tokenize.punkt.PunktSentenceTokenizer",
            _params=w.obj("nltk.tokenize.punkt.PunktParameters", abbrev_types={"dr"},
                          ortho_context=collections.defaultdict(int, a=1)))),
        "spacy": w.pickled(w.obj("spacy.vocab.Vocab", data=b"x")),
        "networkx": w.pickled(w.obj("networkx.classes.graph.Graph", _adj={1: {2: {}}}, graph={})),
        "pil": w.pickled(w.obj("PIL.Image.Image", info={}, size=(1, 1))),
        "geometric": w.pickled(w.obj("torch_geometric.data.data.Data", _store={"x": ones})),
        "rllib": w.pickled({"policy": w.mapping("ray.rllib.utils.typing.Weights", {"a": ones})}),
        "stable-baselines": w.pickled(w.obj(
            "stable_baselines3.common.vec_env.vec_normalize.VecNormalize", ret=ones)),
        "gym-space": w.pickled(w.obj(
            "gymnasium.spaces.box.Box", low=ones, dtype=np.dtype("f4"), _shape=(2, 2))),
        "own-model": w.pickled(w.obj("model.net.Net", layers=[w.obj("model.net.Block", n=1)]), 2),
        "own-function": w.pickled({"collate": w.function("data.collate_fn")}),
        "own-factory": w.pickled(w.called("model.build", "resnet")),
        "own-nested-names": w.pickled(w.obj("src.test.code.platform.Model", a=1)),
        "own-like-python": w.pickled(w.obj("code.model.Net", a=1)),
        "easyocr": w.pickled({"config": w.obj("easyocr.config.Config", size=1)}),
    }  # fmt: skip


def in_containers() -> dict[str, tuple[bytes, str]]:
    """Good files in containers."""
    import numpy as np

    plain = pickle.dumps({"epoch": 3}, 4)
    good = zipped(torch_records(tensors()))
    file = io.BytesIO()
    np.savez(file, a=np.ones(2), b=np.array([{"a": 1}], dtype=object))
    return {
        "state-dict.pt": (good, CLEAN),
        "state-dict.pt.gz": (gzip.compress(good, mtime=0), CLEAN),
        "plain.pkl.gz": (gzip.compress(plain, mtime=0), CLEAN),
        "plain.pkl.xz": (lzma.compress(plain), CLEAN),
        "plain.pkl.z": (zlib.compress(plain), CLEAN),
        "several.pkl": (plain * 3, CLEAN),
        "numbers.npy": (npy(bytes(8), "'<f8'"), CLEAN),
        "objects.npy": (npy(pickle.dumps(["a"], 3)), CLEAN),
        "arrays.npz": (file.getvalue(), CLEAN),
        "folder.zip": (zipped([("README.md", b"# hi"), ("a/model.pt", good)]), CLEAN),
        "models.zip": (zipped([("a.pkl", plain), ("b.npy", npy(bytes(8), "'<f8'"))]), CLEAN),
        "readme.md": (b"# A model\n\nLoad it with pickle.load, or os.system(...).\n", CLEAN),
        "config.json": (b'{"a": 1}', CLEAN),
        "train.py": (b"import os\nos.system('ls')\n", CLEAN),
    }


NEWER = frozenset(("bytes-io", "slices"))
"""What protocol 0 cannot write."""


@cache
def samples() -> tuple[Innocent, ...]:
    """Every file, each name once."""
    made = []
    for protocol in (0, 2, 4):
        for group, values in (("python", of_python()), ("numpy", of_numpy())):
            for name, (value, most) in values.items():
                if protocol or name not in NEWER:
                    data = pickle.dumps(value, protocol)
                    made.append(Innocent(f"{group}-{name}-{protocol}.pkl", data, most))
    made += [Innocent(f"{name}.pkl", data) for name, data in of_packages().items()]
    made += [Innocent(name, data, most) for name, (data, most) in in_containers().items()]
    return tuple(made)


def write(folder: Path) -> list[Path]:
    """Writes them into a folder, in the order of `samples`."""
    paths = []
    for sample in samples():
        path = folder / sample.name
        path.write_bytes(sample.data)
        paths.append(path)
    return paths
