"""A list that may lack something."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


class Answer(list[T]):
    """A list that says what it may lack."""

    def __init__(self, items: Iterable[T], incomplete: str) -> None:
        super().__init__(items)
        self.incomplete: str | None = incomplete or None
        """Why others may be missing, for a person, such as a replica that is not
        heard; None when none are."""
