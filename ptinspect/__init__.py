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

from ptinspect._version import __version__
from ptinspect.errors import (
    DamagedError,
    FormatError,
    LimitError,
    Place,
    PtInspectError,
    UnsafeError,
    UnsupportedError,
)
from ptinspect.limits import Limits

if TYPE_CHECKING:
    from ptinspect.comparison import DiffReport, diff
    from ptinspect.conversion import ConversionReport, convert
    from ptinspect.document import Document, TensorInfo, open
    from ptinspect.proofs.optimizer import OptimizerReport, check_optimizer
    from ptinspect.proofs.resume.proof import check_resume
    from ptinspect.proofs.resume.report import ResumeReport
    from ptinspect.proofs.roundtrip import RoundtripReport, check_roundtrip
    from ptinspect.proofs.stub_check import StubReport, check_stub
    from ptinspect.safety.report.report import ScanReport
    from ptinspect.safety.scan import scan, scan_many
    from ptinspect.stubs import stub, stub_package
    from ptinspect.stubs.context import stubbed

__all__ = [
    "ConversionReport",
    "DamagedError",
    "DiffReport",
    "Document",
    "FormatError",
    "LimitError",
    "Limits",
    "OptimizerReport",
    "Place",
    "PtInspectError",
    "ResumeReport",
    "RoundtripReport",
    "ScanReport",
    "StubReport",
    "TensorInfo",
    "UnsafeError",
    "UnsupportedError",
    "__version__",
    "check_optimizer",
    "check_resume",
    "check_roundtrip",
    "check_stub",
    "convert",
    "diff",
    "open",
    "scan",
    "scan_many",
    "stub",
    "stub_package",
    "stubbed",
]


def __getattr__(name: str) -> object:
    """The names that need more of the package than its errors, at their first use."""
    if name in ("Document", "TensorInfo", "open"):
        from ptinspect import document

        return getattr(document, name)
    if name in ("scan", "scan_many"):
        from ptinspect.safety import scan

        return getattr(scan, name)
    if name == "ScanReport":
        from ptinspect.safety.report.report import ScanReport

        return ScanReport
    if name in ("DiffReport", "diff"):
        from ptinspect import comparison

        return getattr(comparison, name)
    if name in ("ConversionReport", "convert"):
        from ptinspect import conversion

        return getattr(conversion, name)
    if name in ("stub", "stub_package"):
        from ptinspect import stubs

        return getattr(stubs, name)
    if name in ("StubReport", "check_stub"):
        from ptinspect.proofs import stub_check

        return getattr(stub_check, name)
    if name == "stubbed":
        from ptinspect.stubs.context import stubbed

        return stubbed
    if name in ("OptimizerReport", "check_optimizer"):
        from ptinspect.proofs import optimizer

        return getattr(optimizer, name)
    if name == "ResumeReport":
        from ptinspect.proofs.resume.report import ResumeReport

        return ResumeReport
    if name == "check_resume":
        from ptinspect.proofs.resume.proof import check_resume

        return check_resume
    if name in ("RoundtripReport", "check_roundtrip"):
        from ptinspect.proofs import roundtrip

        return getattr(roundtrip, name)
    raise AttributeError(f"module 'ptinspect' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
