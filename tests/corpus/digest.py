"""One SHA-256 over the tensors of a file: key, dtype, shape and bytes of each, in order.

torch's own, pinned in models.json, lets an environment without torch hold ptinspect against it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

Line = tuple[str, str, list[int], bytes]


def digest(tensors: Iterable[Line]) -> str:
    """`tensors`: key, dtype, shape, bytes in C order."""
    whole = hashlib.sha256()
    for key, dtype, shape, data in tensors:
        told = f"{key}\t{dtype}\t{shape}\t{hashlib.sha256(data).hexdigest()}\n"
        whole.update(told.encode())
    return whole.hexdigest()
