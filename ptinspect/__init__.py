"""Reads what `torch.save` wrote: without torch, without the class, executing nothing.

    import ptinspect

    with ptinspect.open("model.pth") as document:
        document.kind                          # "module"
        for key, tensor in document.tensors.items():
            print(key, tensor.dtype, tensor.shape, tensor.device)

Importing this package costs no more than its errors and limits; the rest is imported when it
is first asked for.
"""

from typing import TYPE_CHECKING

from ptinspect.errors import (
    DamagedError,
    FormatError,
    LimitError,
    LossError,
    MissingFileError,
    Place,
    PtInspectError,
    UnsafeError,
    UnsupportedError,
)
from ptinspect.limits import Limits
from ptinspect.report import __version__

if TYPE_CHECKING:
    from ptinspect.comparison import DiffReport, diff
    from ptinspect.conversion import ConversionReport, convert
    from ptinspect.document import Document, TensorInfo, open
    from ptinspect.document.safe_open import SafeTensorFile, safe_open
    from ptinspect.proofs.optimizer import OptimizerReport, check_optimizer
    from ptinspect.proofs.resume import check_resume
    from ptinspect.proofs.resume_report import ResumeReport
    from ptinspect.proofs.roundtrip import RoundtripReport, check_roundtrip
    from ptinspect.proofs.script import check_script
    from ptinspect.proofs.script_report import ScriptReport
    from ptinspect.proofs.stub_check import StubReport, check_stub
    from ptinspect.recovery import RecoveryReport, recover
    from ptinspect.safety.report import ScanReport
    from ptinspect.safety.scan import scan, scan_many
    from ptinspect.stubs import stub, stub_package, stubbed

__all__ = [
    "ConversionReport", "DamagedError", "DiffReport", "Document", "FormatError", "LimitError",
    "Limits", "LossError", "MissingFileError", "OptimizerReport", "Place", "PtInspectError",
    "RecoveryReport", "ResumeReport", "RoundtripReport", "SafeTensorFile", "ScanReport",
    "ScriptReport", "StubReport", "TensorInfo", "UnsafeError", "UnsupportedError", "__version__",
    "check_optimizer", "check_resume", "check_roundtrip", "check_script", "check_stub", "convert",
    "diff", "open", "recover", "safe_open", "scan", "scan_many", "stub", "stub_package", "stubbed",
]  # fmt: skip


_MODULES = {
    name: module
    for module, names in {
        "comparison": ("DiffReport", "diff"),
        "conversion": ("ConversionReport", "convert"),
        "document": ("Document", "TensorInfo", "open"),
        "document.safe_open": ("SafeTensorFile", "safe_open"),
        "proofs.optimizer": ("OptimizerReport", "check_optimizer"),
        "proofs.resume": ("check_resume",),
        "proofs.resume_report": ("ResumeReport",),
        "proofs.roundtrip": ("RoundtripReport", "check_roundtrip"),
        "proofs.script": ("check_script",),
        "proofs.script_report": ("ScriptReport",),
        "proofs.stub_check": ("StubReport", "check_stub"),
        "recovery": ("RecoveryReport", "recover"),
        "safety.report": ("ScanReport",),
        "safety.scan": ("scan", "scan_many"),
        "stubs": ("stub", "stub_package", "stubbed"),
    }.items()
    for name in names
}


def __getattr__(name: str) -> object:
    """Import a public name from its module at its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'ptinspect' has no attribute {name!r}")
    from importlib import import_module  # noqa: TID251  # modules of the table, not of a file

    module = import_module(f"ptinspect.{_MODULES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
