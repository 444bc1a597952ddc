"""Track and deliver in an interpreter that neither pickles nor unpickles."""

from __future__ import annotations

import pickle
from typing import NoReturn

import sqlitedict
from prelude import emitter_of, make, track_some


def refuse(*_: object, **__: object) -> NoReturn:
    raise AssertionError("pickled")


sqlitedict.dumps = sqlitedict.loads = sqlitedict.encode = sqlitedict.decode = refuse
pickle.dumps = pickle.loads = pickle.dump = pickle.load = refuse
t = make()
track_some(t, "main", 10)
emitter_of(t).stats()
t.flush(timeout=5)
t.close()
