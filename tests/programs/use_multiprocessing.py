"""Track in processes and pools of multiprocessing, and in their parent."""

from __future__ import annotations

import multiprocessing

from prelude import GIVEN, make, track


def work(name: str) -> str:
    track(t, name)
    return name


def work_and_flush(name: str) -> None:
    track(t, name)
    assert t.flush(timeout=10)


t = make(linger=0.01)

if __name__ == "__main__":
    context = multiprocessing.get_context(GIVEN["method"])
    track(t, "parent-before")
    children = [context.Process(target=work, args=(f"process-{n}",)) for n in range(3)]
    children.append(context.Process(target=work_and_flush, args=("flushing",)))
    for child in children:
        child.start()
    track(t, "parent-meanwhile")
    for child in children:
        child.join(20)
        assert child.exitcode == 0, child
    with context.Pool(2, maxtasksperchild=3) as pool:
        names = [f"pool-{n}" for n in range(12)]
        assert pool.map(work, names, chunksize=1) == names
    track(t, "parent-after")
    assert t.flush(timeout=10)
    assert t.close()
