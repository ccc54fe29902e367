"""The program in a process of its own: encodings, pipes, signals, terminals, imports, speed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.cli.running import CHECKPOINT, MODEL, process
from tests.conftest import FIXTURES, ROOT

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals and terminals of POSIX")
COMMAND = [sys.executable, "-m", "ptinspect"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

HEAVY = {
    "torch", "numpy", "safetensors", "ml_dtypes", "json", "hashlib", "tempfile", "subprocess",
    "asyncio", "unittest", "pickle", "zipfile", "importlib.metadata", "email", "logging",
}  # fmt: skip


def modules_of(*arguments: str) -> set[str]:
    """What a run imports beyond what click needs."""
    code = (
        "import sys, click; before = set(sys.modules);"
        "from ptinspect.cli import cli; cli(sys.argv[1:], standalone_mode=False);"
        "print(*(set(sys.modules) - before), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, check=True, env=ENVIRONMENT, encoding="utf-8",
    )  # fmt: skip
    return set(done.stderr.split())


@pytest.mark.parametrize("format", ["summary", "tree", "json", "markdown"])
def test_show_is_light(format: str) -> None:
    for file in (MODEL, CHECKPOINT, FIXTURES / "containers/model-legacy.pt"):
        loaded = modules_of("show", "-f", format, str(file))
        assert HEAVY & loaded == set()
        assert "tabulate" not in loaded


def test_a_table_needs_no_more() -> None:
    loaded = modules_of("show", "-f", "table", str(MODEL))
    assert {"torch", "numpy", "safetensors", "pickle", "asyncio", "tabulate"} & loaded == set()


def test_values_need_no_numpy() -> None:
    loaded = modules_of("show", "--values", str(MODEL), str(FIXTURES / "tensors/views-zip.pt"))
    assert "numpy" not in loaded


def test_a_state_dict_needs_nothing_of_modules() -> None:
    loaded = modules_of("show", str(FIXTURES / "seed/model_state_dict.pt"))
    assert "ptinspect.display.tree" not in loaded


@pytest.mark.parametrize(
    "env",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
     {"PYTHONIOENCODING": "cp949"}, {"LC_ALL": "POSIX"}],
)  # fmt: skip
def test_output_is_utf_8_whatever_the_locale(env: dict[str, str], tmp_path: Path) -> None:
    done = process("show", CHECKPOINT, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "'CustomModel 체크포인트-6'" in done.stdout.decode("utf-8")
    text = tmp_path / "a.txt"
    text.write_text("체크포인트 hello", "utf-8")
    failed = process("show", text, env=env)
    assert failed.returncode == 2
    assert "체크" in failed.stderr.decode("utf-8")


def test_json_is_the_same_bytes_whatever_the_locale() -> None:
    plain = process("show", "-f", "json", CHECKPOINT).stdout
    assert (
        process("show", "-f", "json", CHECKPOINT, env={"PYTHONIOENCODING": "ascii"}).stdout == plain
    )


@POSIX
def test_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xfe.pth"
    try:
        with open(path, "wb") as file:
            file.write(MODEL.read_bytes())
    except OSError:
        pytest.skip("this file system takes no such name")
    done = subprocess.run(
        [*COMMAND, "show", "-f", "json", path], capture_output=True, env=ENVIRONMENT, check=True
    )
    assert b"\\udcff\\udcfe.pth" in done.stdout
    assert json.loads(done.stdout)["file"]["path"].endswith("\udcff\udcfe.pth")


# --- pipes and signals --------------------------------------------------------------------


@POSIX
def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, "show", MODEL, CHECKPOINT], stdout=writing, stderr=subprocess.PIPE,
            env=ENVIRONMENT, timeout=60, check=False,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@POSIX
def test_head_of_a_long_answer() -> None:
    files = " ".join([str(MODEL)] * 200)
    line = f"{sys.executable} -m ptinspect show {files} | head -1"
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, env=ENVIRONMENT, timeout=120, check=False
    )
    assert done.stdout.startswith(str(MODEL).encode())
    assert done.stderr == b""


@POSIX
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "show", MODEL], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT,
            check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(b"ptinspect: standard output: cannot be written: No space left")


@POSIX
@pytest.mark.parametrize("arguments", [["--help"], ["show", "--help"], ["--version"]])
def test_a_full_disk_is_said_for_help_as_well(arguments: list[str]) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT,
            check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == (
        b"ptinspect: standard output: cannot be written: No space left on device\n"
    )


@POSIX
def test_a_long_call_fits_the_terminal(tmp_path: Path) -> None:
    from tests.safety.making import call, name, text, whole

    path = tmp_path / "bad.pkl"
    path.write_bytes(whole(call(name("posix", "system"), text("x" * 90))))
    lines = on_terminal("scan", path, COLUMNS="60", NO_COLOR="1").split("\n")
    (line,) = [line for line in lines if "posix.system" in line and "REDUCE" in line]
    assert len(line) == 60
    assert "\x1b[31mdangerous\x1b[0m" in on_terminal("scan", path)
    assert "x" * 60 in process("scan", path).stdout.decode()


@POSIX
def test_interrupted_is_130() -> None:
    """While it waits for its input."""
    running = subprocess.Popen(
        [*COMMAND, "show", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=ENVIRONMENT,
    )  # fmt: skip
    assert running.stdin is not None
    running.stdin.write(bytes(1 << 20))  # more than a pipe holds: back when it has begun to read
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (130, b"")
    assert b"Traceback" not in err


# --- terminals ----------------------------------------------------------------------------


def on_terminal(*arguments: object, **env: str) -> str:
    """What a terminal of 100 columns gets."""
    import pty

    keep = {k: v for k, v in ENVIRONMENT.items() if k not in ("NO_COLOR", "TERM")}
    main, other = pty.openpty()
    running = subprocess.Popen(
        [*COMMAND, *(str(one) for one in arguments)], stdout=other, stdin=subprocess.DEVNULL,
        stderr=other, env={**keep, "TERM": "xterm", "COLUMNS": "100", **env},
    )  # fmt: skip
    os.close(other)
    parts = []
    while True:
        try:
            part = os.read(main, 1 << 16)
        except OSError:  # the other side is gone
            break
        if not part:
            break
        parts.append(part)
    os.close(main)
    running.wait(timeout=60)
    return b"".join(parts).decode("utf-8").replace("\r\n", "\n")


@POSIX
def test_colour_on_a_terminal_alone() -> None:
    assert "\x1b[" in on_terminal("show", MODEL)
    assert "\x1b" not in on_terminal("show", MODEL, NO_COLOR="1")
    assert "\x1b" not in on_terminal("show", MODEL, TERM="dumb")
    assert b"\x1b" not in process("show", MODEL).stdout
    assert "\x1b" not in on_terminal("show", "-f", "json", MODEL)
    assert "\x1b" in on_terminal("show", MODEL, NO_COLOR="")  # as no-color.org has it


@POSIX
def test_blocks_fold_on_a_terminal_alone() -> None:
    deep = FIXTURES / "modules/deep.pt"
    assert "layers.{0..5}.up.weight × 6" in on_terminal("show", deep)
    assert "layers.{0..5}" not in on_terminal("show", "--all", deep)
    assert b"layers.{0..5}" not in process("show", deep).stdout


@POSIX
def test_a_wide_table_fits_the_terminal(tmp_path: Path) -> None:
    text = on_terminal("show", "-f", "table", FIXTURES / "optimizers/adam.pt", COLUMNS="60")
    assert max(map(len, text.split("\n"))) <= 60


@POSIX
def test_progress_only_where_it_is_wanted() -> None:
    """A small file is read before a bar could be seen; the option is taken all the same."""
    assert "%" not in on_terminal("show", "--stats", MODEL, NO_COLOR="1")
    assert "%" not in on_terminal("show", "--stats", "--no-progress", MODEL, NO_COLOR="1")


@pytest.mark.parametrize("command", [["show"], ["scan"], ["stub"]])
def test_it_works_from_a_zip(command: list[str], tmp_path: Path) -> None:
    package = ROOT / "ptinspect"
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as file:
        for path in package.rglob("*"):
            if path.suffix != ".pyc":
                file.write(path, path.relative_to(ROOT))
    model = FIXTURES / "modules/deep.pt"
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import ptinspect.cli;"
        "assert '.zip' in ptinspect.__file__; ptinspect.cli.main()"
    )
    arguments = [sys.executable, "-c", code, tmp_path / "app.zip", *command, model]
    done = subprocess.run(arguments, capture_output=True, check=False, cwd=tmp_path)
    assert done.stdout == process(*command, model).stdout
    assert done.stderr == b""


@pytest.mark.parametrize("package", ["numpy", "ml_dtypes"])
def test_what_is_not_installed_is_named_where_it_is_needed(package: str, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; import ptinspect.cli; ptinspect.cli.main()"
    )
    float8 = FIXTURES / "tensors/float8_e5m2-legacy.pt"
    command = [sys.executable, "-c", code]
    for arguments in (["show", MODEL], ["scan", MODEL], ["stub", MODEL], ["show", float8]):
        done = subprocess.run([*command, *arguments], capture_output=True, check=False)
        assert done.stderr == b""
    arguments = ["convert", "--dtype", "float8_e5m2", MODEL, tmp_path / "o.pt"]
    done = subprocess.run([*command, *arguments], capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.decode() == (
        f"ptinspect: {MODEL}: this needs {package}, which is not installed\n"
        f"  pip install {package}\n"
    )


@pytest.mark.parametrize("command", [["show"], ["diff", CHECKPOINT], ["check", "optimizer"]])
def test_a_float8_scalar_is_shown_without_numpy(command: list[str], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    content = torch.load(CHECKPOINT, weights_only=True)
    content["optimizer_state_dict"]["param_groups"][0]["lr"] = torch.tensor(0.25).to(
        torch.float8_e5m2
    )
    torch.save(content, tmp_path / "float8.pt")
    code = (
        "import sys; sys.modules['numpy'] = sys.modules['ml_dtypes'] = None;"
        "import ptinspect.cli; ptinspect.cli.main()"
    )
    arguments = [sys.executable, "-c", code, *command, tmp_path / "float8.pt"]
    done = subprocess.run(arguments, capture_output=True, check=False)
    assert done.stderr == b""
    assert done.returncode == (1 if command[0] == "diff" else 0)
    assert command[0] == "check" or b"0.25" in done.stdout
