"""Servers and pools that fork: gunicorn with its workers, multiprocessing with its start methods."""

from __future__ import annotations

import http.client
import importlib.util
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from processes import PROGRAMS, Site, label, wait_until

from durable_tracker.collector import Collector
from durable_tracker.control import client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, address: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._address = str(address)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self._address)


def get(address: Path) -> str | None:
    """Return what the application answered, None if nobody did."""
    connection = UnixConnection(address)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.read().decode() if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector that is up."""
    with Collector() as one:
        yield one


@pytest.fixture
def site(tmp_path: Path, collector: Collector) -> Site:
    """A queue dir."""
    return Site(tmp_path, endpoint=collector.url)


def received(collector: Collector) -> Counter[str]:
    return Counter(label(event) for event in collector.events)


@pytest.mark.slow
@pytest.mark.parametrize("preload", [True, False])
@pytest.mark.parametrize("kind", ["sync", "gthread", "gevent"])
def test_gunicorn(site: Site, collector: Collector, kind: str, preload: bool) -> None:
    """Requests to all workers, one of which is killed, then a graceful end: each answered request's event is kept."""
    for module in ("gunicorn", *(["gevent"] if kind == "gevent" else [])):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    place = [site.endpoint, str(site.queue_dir), str(site.journal)]
    environment = {**os.environ, "GIVEN": json.dumps({"place": place})}
    address = site.folder / "socket"
    command = [sys.executable, "-m", "gunicorn", "--workers", "3", "--worker-class", kind, "--threads", "2"]
    command += ["--bind", f"unix:{address}", "--graceful-timeout", "10", "--no-control-socket"]
    command += ["--chdir", str(site.folder), "--pythonpath", str(PROGRAMS)]
    command += ["--log-level", "warning", *(["--preload"] if preload else [])]
    output = (site.folder / "output").open("wb")
    with subprocess.Popen([*command, "wsgi_application:app"], env=environment, stdout=output, stderr=output) as process:
        try:
            wait_until(lambda: get(address) is not None or process.poll() is not None, 20)
            answered: list[str] = []

            def work() -> None:
                for _ in range(40):
                    name = get(address)
                    if name is not None:
                        answered.append(name)

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            wait_until(lambda: len(answered) > 40)
            os.kill(int(answered[-1].split("-")[1]), signal.SIGKILL)
            for thread in threads:
                thread.join(60)
            before = len(answered)
            work()
            assert len(answered) > before + 30
            told, silences = client.stats_in(site.queue_dir)
            workers = {int(name.split("-")[1]) for name in answered[before:]}
            assert workers <= {one["pid"] for one in told.values()}, silences
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            output.close()
    said = (site.folder / "output").read_text(encoding="utf-8")
    assert "Traceback" not in said, said
    assert len(answered) > 150
    wait_until(lambda: all(_is_free(site, index) for index in range(5)))
    kept = received(collector) + site.stored()
    assert set(answered) - set(kept) == set(), said
    # What the killed worker had in flight may arrive again, with the next owner of its slot.
    site.assert_kept(received(collector), doubled_max=40)
    assert len(list(site.slots.glob("*.sqlite3"))) <= 5


@pytest.mark.slow
def test_celery(site: Site, collector: Collector) -> None:
    """A worker that forks its processes after the import: each task's event is kept, and each process answers."""
    if importlib.util.find_spec("celery") is None:
        pytest.skip("celery is not installed")
    folder = site.folder / "broker"
    (folder / "control").mkdir(parents=True)
    place = [site.endpoint, str(site.queue_dir), str(site.journal)]
    environment = {**os.environ, "GIVEN": json.dumps({"place": place, "folder": str(folder)})}
    command = [sys.executable, "-m", "celery", "-A", "celery_application", "worker", "-P", "prefork", "-c", "2"]
    output = (site.folder / "output").open("wb")
    with subprocess.Popen(
        [*command, "-l", "warning"], env=environment, cwd=PROGRAMS, stdout=output, stderr=output
    ) as it:
        try:
            program = str(PROGRAMS / "celery_application.py")
            subprocess.run([sys.executable, program, "60"], env=environment, check=True, timeout=60)
            wait_until(lambda: len(site.noted("ack")) == 60, 60)
            told, silences = client.stats_in(site.queue_dir)
            workers = {int(name.split("-")[1]) for name in site.noted("ack")}
            assert workers == {one["pid"] for one in told.values()}, silences
            it.send_signal(signal.SIGTERM)
            assert it.wait(30) == 0
        finally:
            it.kill()
            output.close()
    assert "Traceback" not in (site.folder / "output").read_text(encoding="utf-8")
    site.assert_kept(received(collector), doubled_max=40)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(method, marks=[] if method == "fork" else pytest.mark.slow)
        for method in multiprocessing.get_all_start_methods()
    ],
)
def test_multiprocessing(site: Site, collector: Collector, method: str) -> None:
    """Processes and pools, that end as multiprocessing ends them: without exit handlers, or terminated."""
    program = PROGRAMS / "use_multiprocessing.py"
    command = [sys.executable, str(program), site.endpoint, str(site.queue_dir), str(site.journal)]
    environment = {**os.environ, "GIVEN": json.dumps({"method": method})}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert len(site.noted("ack")) == 19
    kept_at = time.monotonic()
    wait_until(lambda: all(_is_free(site, index) for index in range(8)))
    assert time.monotonic() - kept_at < 10
    # These processes end without exit handlers: what they had in flight is sent again by the next owner of their slot.
    site.assert_kept(received(collector), doubled_max=40)


def _is_free(site: Site, index: int) -> bool:
    from durable_tracker.engines.sqlite.slots import Slot

    slot = Slot(site.slots, index)
    is_free = slot.acquire()
    slot.release()
    return is_free
