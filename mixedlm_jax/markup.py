"""Tables and lines as HTML, for notebooks; all text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[bool]) -> str:
    """A table of texts; `left` says per column whether it is aligned to the left."""
    sides = ["left" if is_left else "right" for is_left in left]
    head = _row("th", header, sides)
    body = "".join(_row("td", row, sides) for row in rows)
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _row(tag: str, cells: Sequence[str], sides: Sequence[str]) -> str:
    inner = "".join(
        f'<{tag} style="text-align: {side}">{escape(cell.strip())}</{tag}>'
        for cell, side in zip(cells, sides, strict=True)
    )
    return f"<tr>{inner}</tr>"


def paragraph(texts: Sequence[str]) -> str:
    """Lines of text, one below the other."""
    return f"<p>{'<br>'.join(escape(text.strip()) for text in texts)}</p>" if texts else ""


def block(parts: Sequence[str]) -> str:
    """Several pieces of HTML as one."""
    return f"<div>{''.join(parts)}</div>"
