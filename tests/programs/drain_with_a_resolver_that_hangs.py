"""Run the drain where some names are never resolved."""

from __future__ import annotations

import socket
import sys
import time
from typing import Any

from durable_tracker.drain import main

sound = socket.getaddrinfo


def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    if "hung" in str(host):
        time.sleep(600)
    return sound(host, *args, **kwargs)


socket.getaddrinfo = getaddrinfo
sys.exit(main(sys.argv[1:]))
