"""Settings that are checked whenever they are set, as the configuration objects have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

T = TypeVar("T")


class Setting(Generic[T]):
    """A property that is checked whenever it is set."""

    def __init__(self, check: Callable[[str, Any], T], doc: str) -> None:
        self.check = check
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, settings: None, owner: type) -> Self: ...
    @overload
    def __get__(self, settings: object, owner: type) -> T: ...
    def __get__(self, settings: object | None, owner: type) -> Any:
        return self if settings is None else vars(settings)[self.name]

    def __set__(self, settings: object, value: T) -> None:
        vars(settings)[self.name] = self.check(self.name, value)
