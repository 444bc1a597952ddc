"""The version of this package, written once."""

from typing import Final

__version__: Final = "0.1.0"
__version_info__: Final = tuple(int(part) for part in __version__.split("."))
__build_version__: Final = __version__
