"""The development collector in a process of its own, counting and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from typing import Self


class Sink:
    """A counting collector on loopback. A context manager.

    Args:
        latency_s: waited before each answer, which stands for the way there and back.
    """

    def __init__(self, latency_s: float = 0.0) -> None:
        command = [sys.executable, "-m", "durable_tracker.collector", "--port", "0", "--no-validate"]
        command += ["--count-only", "--quiet", "--latency", str(latency_s)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[1]
        self.port = int(self.url.rpartition(":")[2])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def count(self) -> int:
        """Return how many events have arrived."""
        with urllib.request.urlopen(f"{self.url}/micro/all") as answer:  # noqa: S310 - our own address
            return int(json.load(answer)["total"])
