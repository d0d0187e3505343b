"""What Tab offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def complete(words: Sequence[str]) -> int:
    """Print what there is of a kind."""
    return 0 if words else 2
