"""See whether SQLite lets another process read a database."""

from __future__ import annotations

import sqlite3
import sys

try:
    raw = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
    raw.execute("SELECT count(*) FROM sqlite_schema").fetchall()
except sqlite3.OperationalError as exc:
    sys.exit(0 if "locked" in str(exc) else str(exc))
sys.exit("it was let in")
