"""Faults on demand: power loss, failing and killed system calls, full disks, jumping clocks.

    program.py ──runs a Program on a Subject──► recorder.c ──► a log of operations and marks (log.py)
                                                                        │
    judge.py ◄── images, opened by the real code ◄── disk.py ◄──────────┘  cut anywhere
       │
       └─► problems, each with the seed that makes it again (campaign.py)

A harness that never failed proves nothing: `standin.py` is a small store with switches for the mistakes that a durable
queue can make, and the tests show that each of them is seen.
"""
