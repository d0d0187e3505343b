"""Which viewer can show which stream."""

from __future__ import annotations

import pytest

from daemon.viewers.version import Fit, compare, parse_version, show


@pytest.mark.parametrize(("stream", "viewer", "fit"), [
    ((0, 41, 0), (0, 41, 0), Fit.RIGHT),
    ((0, 41, 2), (0, 41, 0), Fit.RIGHT),  # patches read each other
    ((0, 23, 4), (0, 41, 0), Fit.RIGHT),
    ((0, 27, 3), (0, 36, 3), Fit.RIGHT),
    ((0, 41, 0), (0, 36, 3), Fit.PARTLY),
    ((0, 31, 4), (0, 26, 0), Fit.PARTLY),
    ((0, 41, 0), (0, 25, 0), Fit.LOSES),
    ((0, 41, 0), (0, 24, 1), Fit.LOSES),
    ((0, 41, 0), (0, 23, 4), Fit.LOSES),
    ((0, 24, 0), (0, 23, 4), Fit.LOSES),
    ((0, 23, 4), (0, 22, 1), Fit.LOSES),
    (None, (0, 41, 0), Fit.RIGHT),
    (None, (0, 22, 0), Fit.LOSES),
    ((0, 41, 0), None, Fit.RIGHT),
    ((1, 0, 0), (0, 41, 0), Fit.PARTLY),
])
def test_a_verdict_says_what_to_do(
    stream: tuple[int, int, int] | None, viewer: tuple[int, int, int] | None, fit: Fit
) -> None:
    verdict = compare(stream, viewer)
    assert verdict.fit is fit
    assert bool(verdict.message) == (fit is not Fit.RIGHT)
    assert ("pip install" in verdict.hint) == (fit is not Fit.RIGHT)
    if stream is not None and verdict.message and viewer is not None and viewer >= (0, 23, 0):
        assert show(stream) in verdict.message
        assert show(viewer) in verdict.message


@pytest.mark.parametrize(("text", "version"), [
    ("rerun-cli 0.23.4 (default map_view nasm native_viewer release) [rustc 1.84.0 (9fc6b4312)]", (0, 23, 4)),
    ("rerun_sdk-0.41.0.dist-info", (0, 41, 0)),
    ("0.42.0-alpha.3", (0, 42, 0)),
    ("no version here", None),
    ("", None),
])
def test_versions_in_texts(text: str, version: tuple[int, int, int] | None) -> None:
    assert parse_version(text) == version
    assert show(version) == ("unknown" if version is None else "{}.{}.{}".format(*version))
