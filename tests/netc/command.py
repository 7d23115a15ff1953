"""Running command lines: in this process, which is quick, through the same `main` as the script; or in one of their own."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from netc.cli import main

ROOT = Path(__file__).parent.parent.parent
SPECS = ROOT / "specs"


@dataclass(frozen=True)
class Done:
    """How a command line ended."""

    code: int
    out: str
    err: str


def netc(*arguments: object, cwd: Path = ROOT, stdin: bytes = b"") -> Done:
    """Runs `netc arguments…`. An exception that `main` lets through (a traceback, for the user) reaches the caller."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code = 0
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", ["netc", *map(str, arguments)]), \
            patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return Done(code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode())


def process(*arguments: object, cwd: Path = ROOT, **options) -> subprocess.Popen:
    """Starts `netc arguments…` as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.Popen([sys.executable, "-m", "netc", *map(str, arguments)], cwd=cwd, text=True, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
