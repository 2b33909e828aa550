"""Commands of the program on files, each in a process of its own: what a hostile or huge file does stays there.

Keyword arguments are the flags of the program, with `_` for `-`: `dry_run=True` is `--dry-run`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Optional, Union

from ._errors import DownloadError, Error, ModelError, ModelNotFoundError, UsageError

Path = Union[str, "os.PathLike[str]"]

#: Exit code of the program for wrong usage.
_USAGE = 2


def inspect(path: Path, *, check: bool = False, **flags: Any) -> dict[str, Any]:
    """What a model file holds, and whether it can run; with `check` all weights are read."""
    _must_exist(path)
    return _json(ModelError, "inspect", os.fspath(path), check=check, **flags)


def convert(src: Path, out: Optional[Path] = None, **flags: Any) -> dict[str, Any]:
    """Converts a Hugging Face directory or a GGUF file to the GGUF file `out`; tells what was written."""
    _must_exist(src)
    if out is not None:
        flags["output"] = os.fspath(out)
    return _json(ModelError, "convert", os.fspath(src), **flags)


def bench(model: Optional[Path] = None, **flags: Any) -> list[dict[str, Any]]:
    """Rates of a model on this machine, an entry for each test; without a model those of the built-in one."""
    if model is not None:
        flags["model"] = os.fspath(model)
    rates: list[dict[str, Any]] = _run(Error, "bench", output="json", **flags)
    return rates


def pull(name: str) -> str:
    """Brings a model of the Hugging Face Hub into its cache: `org/name`, or `org/name:file`. Returns its path."""
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, found {type(name).__name__}")
    return str(_json(DownloadError, "pull", name)["path"])


def _must_exist(path: Path) -> None:
    # A name of the Hub has one slash and no such folder.
    text = os.fspath(path)
    is_name = text.count("/") == 1 and not os.path.isdir(os.path.dirname(text))
    if not os.path.exists(text) and not is_name:
        raise ModelNotFoundError(f"cannot open {text}: there is no such file")


def _json(failure: type[Error], command: str, *words: str, **flags: Any) -> dict[str, Any]:
    answer: dict[str, Any] = _run(failure, command, *words, json=True, **flags)
    return answer


def _run(failure: type[Error], command: str, *words: str, **flags: Any) -> Any:
    """The JSON that the program prints."""
    args = [sys.executable, "-m", "bitnet_gpu", command]
    for name, value in flags.items():
        if value is None or value is False:
            continue
        args.append(f"--{name.replace('_', '-')}")
        if value is not True:
            args.append(",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
    # Progress is shown where somebody looks.
    shows = sys.stderr is not None and sys.stderr.isatty()
    done = subprocess.run(
        [*args, "--", *words] if words else args,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if shows else subprocess.PIPE,
        check=False,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode != 0:
        raise (UsageError if done.returncode == _USAGE else failure)(_reason(command, done))
    return json.loads(done.stdout)


def _reason(command: str, done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stderr or "").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return f"{command} ended with {how}"
