"""An application for Celery whose task tracks; started as a worker, and as what sends it tasks."""

from __future__ import annotations

import itertools
import os
import sys

from celery import Celery
from prelude import GIVEN, make, track

app = Celery("test", broker="filesystem://")
app.conf.broker_transport_options = dict.fromkeys(("data_folder_in", "data_folder_out"), GIVEN["folder"])
app.conf.broker_transport_options["control_folder"] = GIVEN["folder"] + "/control"
t = make(linger=0.01, shutdown_timeout=2.0)
numbers = itertools.count()


@app.task(name="tell")  # type: ignore[untyped-decorator]
def tell() -> None:
    track(t, f"task-{os.getpid()}-{next(numbers)}")


if __name__ == "__main__":
    for _ in range(int(sys.argv[-1])):
        tell.delay()
