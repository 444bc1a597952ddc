"""The tables of a slot as mappings: SqliteDict on the connection of `connection`. The only importer of sqlitedict."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

from sqlitedict import SqliteDict

if TYPE_CHECKING:
    from durable_tracker.engines.sqlite.connection import Connection


class Table(SqliteDict):  # type: ignore[misc]
    """A SqliteDict on a `Connection`. Values are never pickled."""

    def __init__(self, connection: Connection, name: str, *, is_readonly: bool = False) -> None:
        self._connection = connection
        self._is_readonly = is_readonly
        super().__init__(
            filename=str(connection.path),
            tablename=name,
            flag="c",
            autocommit=False,
            journal_mode="WAL",
            encode=_encode,
            decode=_decode,
            encode_key=lambda key: key,
            decode_key=lambda key: key.decode() if isinstance(key, bytes) else key,
            timeout=0,
            outer_stack=False,
        )

    def _new_conn(self) -> Connection:
        return self._connection

    def __setitem__(self, key: Any, value: Any) -> None:
        self._refuse_if_readonly()
        super().__setitem__(key, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """As a dict's, unless the table is read-only."""
        self._refuse_if_readonly()
        super().update(*args, **kwargs)

    def _refuse_if_readonly(self) -> None:
        if self._is_readonly:
            # SqliteDict's REPLACE would overwrite an acknowledged row when two writers meet on a key.
            raise TypeError(f"{self.tablename} is written by the queue alone")

    def _refused(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise TypeError(f"{self.tablename} is written by the queue alone")

    # There is nothing to close: see `Connection.close`. A C function, since an exception out of a signal handler that
    # came in a finaliser's bytecode would be printed and lost.
    __del__ = object

    clear = pop = popitem = setdefault = terminate = __delitem__ = _refused


def _encode(value: Any) -> Any:
    return value if isinstance(value, int | bytes) else json.dumps(value).encode()


def _decode(value: Any) -> Any:
    return value
