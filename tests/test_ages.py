"""The age of a row, over boots, suspensions and wrong clocks: perhaps less than it is, never more."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from durable_tracker.engines.sqlite.clocks import MOMENTS_MAX, Ages, Reading, read_clocks

STEPS = st.one_of(
    st.tuples(st.just("passes"), st.floats(0, 5_000)),
    st.tuples(st.just("jumps"), st.floats(-3e9, 3e9)),
    st.tuples(st.just("reboots"), st.floats(0, 1e6)),
    st.tuples(st.just("is set right"), st.just(0)),
    st.tuples(st.just("puts"), st.integers(1, 5)),
    st.tuples(st.just("is noted"), st.just(0)),
    st.tuples(st.just("is reopened"), st.just(0)),
)


class World:
    """The true time, and a machine whose clocks are wrong unless they were set right, and then they are vouched for."""

    def __init__(self) -> None:
        self.true_s = 1e9
        self.boot = 0
        self.booted_s = self.true_s
        self.offset_s = -5e8
        self.is_synchronised = False
        self.put_at: list[float] = []

    def read(self) -> Reading:
        return Reading(str(self.boot), self.true_s - self.booted_s, self.true_s + self.offset_s, self.is_synchronised)

    def step(self, name: str, value: Any) -> None:
        if name == "passes":
            self.true_s += value
        elif name == "jumps":
            self.offset_s, self.is_synchronised = value, False
        elif name == "reboots":
            self.true_s += value
            self.boot, self.booted_s, self.is_synchronised = self.boot + 1, self.true_s, False
        elif name == "is set right":
            self.offset_s, self.is_synchronised = 0.0, True
        elif name == "puts":
            self.put_at += [self.true_s] * value


@settings(deadline=None, max_examples=300)
@given(st.lists(STEPS, max_size=120), st.floats(0.1, 20_000))
def test_no_row_is_taken_for_older_than_it_is(steps: list[tuple[str, Any]], age_s: float) -> None:
    """Whatever the clocks did, and however often the moments were thinned out."""
    world = World()
    ages = Ages(None, world.read)
    for name, value in steps:
        world.step(name, value)
        if name in ("is noted", "reboots"):
            ages.note(len(world.put_at))
        if name == "is reopened":
            ages = Ages(ages.record(), world.read)
        last = ages.older_than(age_s)
        assert 0 <= last <= len(world.put_at)
        assert all(world.true_s - put_at > age_s - 0.1 for put_at in world.put_at[:last])


@given(st.floats(1, 1e5), st.integers(1, 400))
def test_with_clocks_that_agree_rows_expire_within_the_distance_of_two_moments(age_s: float, count: int) -> None:
    """Moments are thinned out by their age, so that recent ones stay close together."""
    world = World()
    world.step("is set right", 0)
    ages = Ages(None, world.read)
    for _ in range(count):
        world.step("puts", 1)
        ages.note(len(world.put_at))
        world.step("passes", 60)
    world.step("passes", age_s)
    assert ages.older_than(age_s * 0.5) > 0
    assert len(ages._moments) <= MOMENTS_MAX
    spent_s = world.true_s - world.put_at[0]
    assert ages.older_than(spent_s * 0.7) >= 1


def test_what_is_altered_on_record_is_as_if_it_was_not_there() -> None:
    """No age is known, and nothing expires."""
    for recorded in (
        b"[[1",
        b"7",
        b'[["a","b"]]',
        b"null",
        b"\xff",
        b'[["b"],[[1,0,null,2,1]]]',
        b"[[],[[1,0,1,2,1]]]",
    ):
        assert Ages(recorded).older_than(0) == 0


def test_the_clocks_of_this_machine_can_be_read() -> None:
    """Twice the same boot, and time that goes on."""
    first, second = read_clocks(), read_clocks()
    assert first.boot == second.boot
    assert first.since_boot_s <= second.since_boot_s
