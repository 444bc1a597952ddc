"""Hold SQLite's exclusive lock of a database until standard input ends. Takes the database as its argument."""

from __future__ import annotations

import sqlite3
import sys

raw = sqlite3.connect(sys.argv[1], isolation_level=None)
raw.execute("BEGIN EXCLUSIVE")
print("open", flush=True)
sys.stdin.read()
