"""Numbers and tables as R prints them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SMALLEST_P = 2.2e-16
_STARS = ((0.001, "***"), (0.01, "**"), (0.05, "*"), (0.1, "."), (1.0, " "))
STARS_LEGEND = "Signif. codes:  0 '***' 0.001 '**' 0.01 '*' 0.05 '.' 0.1 ' ' 1"


def format_alike(values: Sequence[float] | np.ndarray, digits: int) -> list[str]:
    """Numbers with one number of decimals: the fewest that show each to `digits` digits.

    Scientific where that is shorter. nan reads NaN.
    """
    numbers = [float(v) for v in np.ravel(values)]
    finite = [v for v in numbers if np.isfinite(v)]
    mantissas, exponents = [0], [0]
    for value in finite:
        if value != 0.0:
            mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
            mantissas.append(len(mantissa.rstrip("0").replace(".", "")) - 1)
            exponents.append(int(exponent))
    decimals = max(0, *(m - e for m, e in zip(mantissas, exponents, strict=True)))
    fixed = [f"{round(v, decimals) + 0.0:.{decimals}f}" for v in finite]  # + 0.0: no "-0.00"
    scientific = [f"{v:.{max(mantissas)}e}" for v in finite]
    shorter = max(map(len, fixed), default=0) <= max(map(len, scientific), default=0)
    chosen = iter(fixed if shorter else scientific)
    return [next(chosen) if np.isfinite(v) else _not_finite(v) for v in numbers]


def format_estimates(values: np.ndarray, digits: int) -> list[list[str]]:
    """Estimates and standard errors (p, 2), all with one number of decimals."""
    size = np.abs(values[np.isfinite(values) & (values != 0.0)])
    magnitude = 1 + int(np.floor(np.log10(size.min()))) if size.size else 0
    rounded = np.round(values, max(1, digits - magnitude))
    texts = format_alike(rounded, digits)
    width = values.shape[1]
    return [texts[i : i + width] for i in range(0, len(texts), width)]


def format_p_values(values: Sequence[float] | np.ndarray, digits: int = 3) -> list[str]:
    """p-values: those above 1e-4 alike, those below in scientific notation, "< 2e-16" at most."""
    numbers = np.asarray(values, float)
    texts = np.array(["NaN"] * len(numbers), dtype=object)
    tiny = numbers < _SMALLEST_P
    texts[tiny] = "< 2e-16"
    for group in (numbers >= 1e-4, (numbers < 1e-4) & ~tiny):
        texts[group] = format_alike(numbers[group], digits)
    return list(texts)


def stars(p: float) -> str:
    """The mark of a p-value."""
    return next((mark for limit, mark in _STARS if p <= limit), "")


def abbreviate(names: Sequence[str], length: int) -> list[str]:
    """Names shortened towards `length`, kept different from each other.

    Lower-case vowels go first, then other lower-case letters, then anything, each from the right.
    """
    longest = max((len(name) for name in names), default=0)
    for allowed in range(length, longest):
        short = [_shorten(name, allowed) for name in names]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)


def align(rows: Sequence[Sequence[str]], left: Sequence[bool]) -> list[str]:
    """Lines of a table whose columns are padded to one width, to the left or to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        " ".join(
            cell.ljust(width) if is_left else cell.rjust(width)
            for cell, width, is_left in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in rows
    ]


def _not_finite(value: float) -> str:
    return "NaN" if np.isnan(value) else ("Inf" if value > 0 else "-Inf")


def _shorten(name: str, length: int) -> str:
    for droppable in ("aeiou", "abcdefghijklmnopqrstuvwxyz", None):
        for at in range(len(name) - 1, 0, -1):
            if len(name) <= length:
                return name
            if droppable is None or name[at] in droppable:
                name = name[:at] + name[at + 1 :]
    return name
