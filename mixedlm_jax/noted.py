"""Tables with sentences below them: why a number is not there, or how one is to be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from mixedlm_jax.markup import paragraph


class NotedFrame(pd.DataFrame):
    """A frame that prints its `notes` (a tuple of sentences) below it, and keeps them when cut.

    In everything else it is a `pandas.DataFrame`.
    """

    _metadata = ["notes"]  # noqa: RUF012 (what pandas hands on to frames made of this one)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, data: Any, notes: Iterable[str] = (), **arguments: Any) -> NotedFrame:
        """A frame of what `pandas.DataFrame` takes, with its notes, each once."""
        frame = cls(data, **arguments)
        frame.notes = tuple(dict.fromkeys(notes))
        return frame

    @property
    def _constructor(self) -> Callable[..., NotedFrame]:
        return NotedFrame

    def __repr__(self) -> str:
        # a table of tests is of no use without its last columns
        with pd.option_context("display.max_columns", None, "display.width", 110):
            return "\n".join([super().__repr__(), *self.notes])

    __str__ = __repr__

    def _repr_html_(self) -> str:
        return self.to_html(notebook=True) + paragraph(self.notes)
