"""Runs its command line in the server of torch_child.py: its first argument is the server's socket.

Signals are passed on, and it ends as the script ends. It imports little: it starts often.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from typing import Any


def main() -> None:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(sys.argv[1])
    job = {"arguments": sys.argv[2:], "cwd": os.getcwd(), "env": dict(os.environ)}
    text = json.dumps(job).encode()
    length = len(text).to_bytes(8, "big")
    socket.send_fds(connection, [length], [0, 1, 2])
    connection.sendall(text)

    def pass_on(number: int, frame: Any) -> None:
        connection.send(bytes([number]))

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    code = int(connection.recv(16) or -signal.SIGKILL)
    if code < 0:  # it was killed
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
