"""References that outlive the interpreter's finalisation, for what no finaliser may touch."""

from __future__ import annotations

try:
    import ctypes
except ImportError:  # a subinterpreter of Python 3.12, which cannot fork either
    ctypes = None  # type: ignore[assignment]


def keep_for_ever(one: object) -> None:
    """Take a reference that nothing but `give_back` gives back."""
    if ctypes is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))


def give_back(one: object) -> None:
    """Undo `keep_for_ever`."""
    if ctypes is not None:
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(one))
