"""Write the files of two ranks whose tensors are not all strided: `python … FOLDER write`. After
`convert --to same` into FOLDER/out.pt, `python … FOLDER compare` compares it with the whole."""

import sys
import warnings
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

folder, action = sys.argv[1:3]
warnings.simplefilter("ignore")


class Holder:
    pass


def state(cut):
    """Return what a rank saves; `cut` is what becomes of a tensor of which a rank has two rows."""
    torch.manual_seed(0)
    holder = Holder()
    holder.rows = cut(torch.randn(4, 3))
    tied = cut(torch.randn(4, 1))
    stale = torch.nn.Parameter(torch.randn(2))
    stale.note = "x"
    quantized = torch.quantize_per_channel(
        torch.randn(4, 2), torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.arange(4), 0, torch.qint8
    )
    ragged = [torch.randn(2), torch.randn(3)]
    return {
        "coo": torch.eye(3).to_sparse(), "csr": torch.randn(3, 3).to_sparse_csr(),
        "parameter": torch.nn.Parameter(torch.eye(3).to_sparse()),
        "quantized": torch.quantize_per_tensor(torch.randn(5), 0.1, 3, torch.quint8)[1:],
        "per_channel": quantized, "nested": torch.nested.nested_tensor(ragged),
        "jagged": torch.nested.nested_tensor(ragged, layout=torch.jagged),
        "in": (cut(torch.randn(4, 3)), [holder]), "tied": [tied, tied], "stale": stale,
        "storage": torch.arange(3).untyped_storage(), "graded": torch.ones(2, requires_grad=True),
        "array": np.arange(3.0), "keys": {torch.float32: 1, ("a", torch.int8): torch.ones(1)},
        "meta": torch.empty(3, device="meta"), "names": {"one", "two"},
    }  # fmt: skip


def equal(a, b):
    """Return True if two values are the same, bit for bit."""
    if isinstance(b, torch.UntypedStorage):  # torch.load returns a TypedStorage of bytes
        return a.tolist() == b.tolist()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(map(str, a)) == list(map(str, b)) and equal([*a.values()], [*b.values()])
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, Holder):
        return equal(vars(a), vars(b))
    if isinstance(a, np.ndarray):
        return (a == b).all()
    if not isinstance(a, torch.Tensor):
        return a == b
    facts = ("shape", "dtype", "layout", "requires_grad", "is_quantized", "device")
    if a.is_nested:
        return facts_of(a, facts[1:]) == facts_of(b, facts[1:]) and equal(
            [*a.detach().unbind()], [*b.detach().unbind()]
        )
    if facts_of(a, facts) != facts_of(b, facts) or vars(a) != vars(b):
        return False
    if a.is_quantized:
        scales = [
            [t.q_scale(), t.q_zero_point()]
            if t.qscheme() == torch.per_tensor_affine
            else [t.q_per_channel_scales(), t.q_per_channel_zero_points()]
            for t in (a, b)
        ]
        return equal(a.int_repr(), b.int_repr()) and equal(*scales)
    return a.is_meta or torch.equal(a.to_dense(), b.to_dense())


def facts_of(tensor, names):
    return [getattr(tensor, name) for name in names]


def piece(mesh, rank, whole):
    rows = whole[2 * rank : 2 * rank + 2].clone()
    return DTensor.from_local(rows, mesh, [Shard(0)], run_check=False)


if action == "write":
    for rank in range(2):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=2)
        mesh = init_device_mesh("cpu", (2,))
        value = state(partial(piece, mesh, rank))
        torch.save(value, f"{folder}/model_world_size_2_rank_{rank}.pt")
        dist.destroy_process_group()
else:
    merged, expected = (
        torch.load(f"{folder}/out.pt", weights_only=False),
        state(lambda whole: whole),
    )
    different = [key for key in expected if not equal(merged.get(key), expected[key])]
    assert not different and merged.keys() == expected.keys(), different
    assert merged["tied"][0] is merged["tied"][1]
