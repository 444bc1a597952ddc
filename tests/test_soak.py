"""The soak itself, for seconds: its verdict is right both ways."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import soak
from soak import Sample, main, plot, rise

if TYPE_CHECKING:
    from collections.abc import Callable


def samples(rss: Callable[[float], float]) -> list[Sample]:
    return [Sample(float(n), rss(n), 5, 1.0, 1.0, 9, 3) for n in range(41)]


def test_a_rise_is_seen_over_the_second_half_only() -> None:
    """What settles in the first half does not count; what swings does not either."""
    assert pytest.approx(0.0) == rise(samples(lambda n: min(n, 15)), "rss_mib")
    assert pytest.approx(20.0) == rise(samples(lambda n: n), "rss_mib")
    assert abs(rise(samples(lambda n: n % 2), "rss_mib")) < 0.2


def test_the_plot_is_text_with_a_line_for_each_level() -> None:
    """No picture is needed to see a leak."""
    lines = plot(samples(lambda n: n), "rss_mib").splitlines()
    assert lines[0] == "rss_mib:"
    assert len(lines[1]) < len(lines[1].rstrip()) + 1
    assert lines[1].count("#") < lines[-2].count("#")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_short_soak_is_flat_and_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten seconds with a collector that is away for two of them."""
    assert main(["10", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert "verdict: flat, nothing lost" in out
    found = re.search(r"tracked (\d+) ", out)
    assert found is not None
    assert int(found[1]) > 1000


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_soak_that_is_not_flat_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that cannot fail shows nothing."""
    monkeypatch.setitem(soak.ALLOWED, "threads", -1.0)
    assert main(["3", "--seed", "1"]) == 1
    assert "NOT FLAT" in capsys.readouterr().out
