"""How good the Laplace approximation of a fit is, in words and numbers that exist to be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mixedlm_jax.formatting import align
from mixedlm_jax.inference import Correction, QuadratureCheck

MAX_SHIFT = 0.3  # standard errors that quadrature may move an estimate by
MAX_DIFFERENCE = 0.01  # of log-likelihoods by k and by 2k + 1 nodes
MAX_TERM = 0.02  # log-likelihood units a level, for a correction that can be believed

TERMS = ("l4 h^2 / 8", "(l3 h)' K (l3 h) / 8", "l3' K^3 l3 / 12")
"""The terms of the correction; `inference.laplace_check` says what the letters mean."""


@dataclass(frozen=True, repr=False, eq=False)
class LaplaceCheck:
    """Whether the Laplace approximation is good enough for a model, as `check_laplace` returns it.

    Attributes
    ----------
    ok
        The verdict.
    verdict
        The same in one line.
    log_likelihoods
        At the Laplace estimates, every constant in: "Laplace", and with one grouping factor those
        of quadrature with k and 2k + 1 nodes per dimension, "25 nodes" and "51 nodes".
    terms
        The three terms of the second-order correction of the Laplace log-likelihood, by name.
    per_level
        The largest of the terms and of their sum, without its sign, for each level.
    shifts
        By how many standard errors a Newton step with the quadrature's Hessian moves each estimate;
        nan for parameters on their boundary. None where there is no quadrature, and where it asks
        for a refit: one step does not say where that ends.
    """

    ok: bool
    verdict: str
    log_likelihoods: Mapping[str, float]
    terms: Mapping[str, float]
    per_level: float
    shifts: pd.Series | None

    @classmethod
    def of(
        cls,
        correction: Correction,
        quadrature: QuadratureCheck | None,
        n_levels: int,
        names: tuple[str, ...],
    ) -> LaplaceCheck:
        """The verdict on what was computed.

        n_levels: of all grouping factors. names: of the estimates that shifts belong to.
        """
        values = {"Laplace": correction.log_likelihood}
        size = max(map(abs, (*correction.terms, sum(correction.terms)))) / n_levels
        if quadrature is None:
            ok, verdict, shifts = *_judge_correction(size), None
        else:
            labels = [f"{nodes} nodes" for nodes in quadrature.nodes]
            values |= dict(zip(labels, quadrature.log_likelihoods, strict=True))
            ok, verdict = _judge_quadrature(quadrature, names)
            shifts = pd.Series(quadrature.shifts, index=list(names)) if ok else None
        terms = dict(zip(TERMS, correction.terms, strict=True))
        return cls(ok, verdict, values, terms, size, shifts)

    def __str__(self) -> str:
        known = {name: f"{value:.4f}" for name, value in self.log_likelihoods.items()}
        total = sum(self.terms.values())
        parts = {name: f"{value:.4f}" for name, value in (*self.terms.items(), ("sum", total))}
        lines = ["Log-likelihood at the Laplace estimates:", *_columns(known)]
        lines += ["Second-order correction of Laplace's:", *_columns(parts)]
        if self.shifts is not None:
            values = (f"{np.round(value, 2) + 0.0:.2f}" for value in self.shifts)
            moved = [list(row) for row in zip(map(str, self.shifts.index), values, strict=True)]
            lines += ["Shift of the estimates by quadrature (standard errors):"]
            lines += [f" {line}" for line in align(moved, [True, False])]
        return "\n".join([*lines, self.verdict])

    def __repr__(self) -> str:
        return str(self)


def _columns(texts: Mapping[str, str]) -> list[str]:
    return [f" {line}" for line in align([list(texts), list(texts.values())], [False] * len(texts))]


def _judge_quadrature(found: QuadratureCheck, names: tuple[str, ...]) -> tuple[bool, str]:
    """Whether quadrature leaves the estimates where they are, and the line that says so."""
    nodes, finer = found.nodes
    rough, fine = found.log_likelihoods
    settled = bool(abs(fine - rough) <= MAX_DIFFERENCE)
    sizes = np.where(np.isnan(found.shifts), 0.0, np.abs(found.shifts))
    if not np.all(sizes <= MAX_SHIFT):
        return False, (
            f"refit with nAGQ={nodes if settled else finer}: it moves an estimate by more than "
            f"{MAX_SHIFT:g} standard errors"
        )
    if not settled:
        return False, (
            f"refit with nAGQ={finer}: {nodes} nodes are too few to judge by, as {finer} change "
            f"the log-likelihood by more than {MAX_DIFFERENCE:g}"
        )
    largest = int(np.argmax(sizes))
    return True, (
        f"Laplace is good enough: quadrature moves no estimate by more than {sizes[largest]:.2f} "
        f"standard errors ({names[largest]})"
    )


def _judge_correction(size: float) -> tuple[bool, str]:
    """Whether the second-order correction is that of a regular model, and the line that says so."""
    if size <= MAX_TERM:
        return True, (
            f"Laplace should do: no term of its correction is above {size:.4f} log-likelihood "
            f"units a level (regular up to {MAX_TERM:g})"
        )
    return False, (
        f"Laplace may be far off: its correction has a term of {size:.4f} log-likelihood units a "
        f"level (regular up to {MAX_TERM:g}), and there is no quadrature for this model"
    )
