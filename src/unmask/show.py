"""Progress bars and tables, as every command shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as Drawing
from rich.text import Text

from unmask.text import cell, say

T = TypeVar("T")
NUMBER = re.compile(r"(-|inf|-?[\d,.]+)( .*)?")  # a cell that stands to the right


class Bar:
    """A progress bar on standard error, only where someone looks; a context manager.

    Args:
        label: what is being done.
        total: how many are to be done; None where nobody knows.
        unit: what is counted.
        done: how many are done already.
        shown: False in processes that keep silent.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        *,
        unit: str = "images",
        done: int = 0,
        shown: bool = True,
    ) -> None:
        console = Console(stderr=True)
        self.seen = shown and console.is_terminal
        self._progress = Progress(
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
            *(TextColumn("{task.speed!s:.6} {task.fields[unit]}/s"), TimeRemainingColumn()),
            TextColumn("{task.fields[now]}"),
            console=console,
            transient=True,
            disable=not self.seen,
        )
        self._task = self._progress.add_task(label, total=total, completed=done, unit=unit, now="")

    def __enter__(self) -> Bar:
        """Show it."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take it down."""
        self._progress.stop()

    def advance(self, count: int = 1) -> None:
        """Move on by ``count``."""
        self._progress.advance(self._task, count)

    def over(self, things: Iterable[T]) -> Iterator[T]:
        """The things, each counted when it is done with."""
        for thing in things:
            yield thing
            self.advance()

    def move(self, done: int) -> None:
        """Move to ``done``."""
        self._progress.update(self._task, completed=done)

    def tell(self, now: str) -> None:
        """Say something beside the bar, instead of what was said before."""
        self._progress.update(self._task, now=now)


def shown(value: object) -> str:
    """A number as tables show it, four significant digits of a float; other values as they are."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def aligned(facts: Mapping[str, str]) -> list[str]:
    """A line for each fact, with its name in front."""
    width = max(map(len, facts))
    return [f"{name:{width}}  {words}" for name, words in facts.items()]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Values under titles, with the circumstances under which they hold.

    Args:
        titles: Name of each column, with its unit.
        rows: Values of each row, as many as titles; a cell of several lines is a tuple.
        notes: Every choice that moves a value, a line each.
    """

    titles: Sequence[str]
    rows: Sequence[Sequence[object]]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        """Plain text for a terminal or a file, all but the first column to the right."""
        lines = [list(self.titles), *([shown(value) for value in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        body = [
            "  ".join(
                text.rjust(width) if column else text.ljust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        return "\n".join([*body, "", *self.notes])

    def markdown(self) -> str:
        """A table of Markdown, numbers to the right, and the notes as a list."""
        rows = [[shown(value) for value in row] for row in self.rows]
        first = rows[0] if rows else self.titles
        rule = ["---:" if NUMBER.fullmatch(text) else "---" for text in first]
        lines = [self.titles, rule, *rows]
        table = [f"| {' | '.join(line)} |" for line in lines]
        notes = ["", *(f"* {note}" for note in self.notes)] if self.notes else []
        return "\n".join([*table, *notes])

    def turned(self) -> Table:
        """The table with its columns as rows."""
        titles, *rows = zip(self.titles, *self.rows, strict=True)
        return Table(titles=[str(title) for title in titles], rows=rows, notes=self.notes)

    def draw(self) -> None:
        """Print it with frames, as wide as the terminal is, and the notes below."""
        drawing = Drawing()
        for title in self.titles:
            drawing.add_column(cell(title))
        for row in self.rows:
            lines = (value if isinstance(value, tuple) else (shown(value),) for value in row)
            drawing.add_row(*(Text("\n").join(map(cell, part)) for part in lines))
        Console().print(drawing)
        say(*self.notes)
