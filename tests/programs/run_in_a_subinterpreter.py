"""Run a file in a subinterpreter. Takes the file as its argument."""

from __future__ import annotations

import os
import sys
from pathlib import Path

code = Path(sys.argv[1]).read_text(encoding="utf-8")
if sys.version_info >= (3, 13):
    import _interpreters

    failed = _interpreters.exec(_interpreters.create("isolated"), code)
    assert failed is None, failed
else:
    import _xxsubinterpreters  # type: ignore[import-not-found]

    options = {} if sys.version_info >= (3, 12) else {"isolated": False}  # else it may have no threads
    _xxsubinterpreters.run_string(_xxsubinterpreters.create(**options), code)
sys.stdout.flush()
os._exit(0)
