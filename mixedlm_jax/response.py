"""The response with its trials and weights: every way of writing one, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from mixedlm_jax.errors import ArgumentError, DataError, FormulaError
from mixedlm_jax.expression import Call, Expression, Operation
from mixedlm_jax.table import Category, Numeric, Value
from mixedlm_jax.variables import Evaluation

WEIGHTS_TYPES = ("prior", "frequency")
# Rows that are looked at before all are.
_FIRST = 1000


class ResponseFamily(Protocol):
    """What a design asks of a family."""

    @property
    def name(self) -> str: ...
    @property
    def takes_trials(self) -> bool: ...
    @property
    def takes_fractions(self) -> bool: ...
    @property
    def dispersion_names(self) -> tuple[str, ...]: ...
    def check_response(self, y: np.ndarray, trials: np.ndarray) -> None: ...
    def one_row_per_level(self, trials: np.ndarray) -> str: ...


@dataclass(frozen=True, eq=False)
class Response:
    """The response of the rows used.

    Attributes
    ----------
    y
        Shape (n,); the number of successes where the family takes trials.
    trials
        Shape (n,); ones where the family takes none.
    weights
        Shape (n,); what is left of the weights once those that are trials are taken out.
    notes
        Sentences for the summary.
    """

    y: np.ndarray
    trials: np.ndarray
    weights: np.ndarray
    notes: tuple[str, ...] = ()


def response_parts(
    expression: Expression, family: ResponseFamily, evaluation: Evaluation
) -> tuple[Value, ...]:
    """What a response is made of, one value per row of the table: y, or successes and a second.

    Raises
    ------
    FormulaError
        For `cbind` with a family that takes no trials.
    """
    if _is_cbind(expression):
        if not family.takes_trials:
            raise FormulaError(
                f"cbind(successes, failures) needs a family with trials, found {family.name}: "
                "write the response as one column or use the binomial family"
            )
        return tuple(evaluation.variable(operand) for operand in expression.operands)
    if has_trials(expression, family):
        successes, trials = (_numeric(operand, evaluation) for operand in expression.operands)
        return successes, trials
    return (evaluation.variable(expression),)


def has_trials(expression: Expression, family: ResponseFamily) -> bool:
    """Whether a response names its trials: `successes / trials`, `cbind(successes, failures)`."""
    return family.takes_trials and (_is_ratio(expression) or _is_cbind(expression))


def with_trials(
    expression: Expression, successes: np.ndarray, trials: np.ndarray
) -> tuple[Value, Value]:
    """The parts of a response that names its trials, from these numbers."""
    second = trials - successes if _is_cbind(expression) else trials
    return Numeric(successes), Numeric(second)


def respond(
    expression: Expression,
    parts: tuple[Value, ...],
    family: ResponseFamily,
    weights: np.ndarray | None,
    weights_type: str,
) -> Response:
    """Make the response of the rows used from its parts, without missing values.

    Raises
    ------
    DataError
        For negative weights, a response the family cannot have, and a constant one.
    """
    if len(parts) == 2:
        response = _from_trials(expression, parts, weights, weights_type)
    else:
        response = _from_values(expression, parts[0], family, weights, weights_type)
    response = _without_empty_trials(response)
    counted = response.weights > 0
    if not counted.any():
        raise DataError("every row has weight 0: give at least two rows a positive weight")
    y, trials = response.y, response.trials
    if not counted.all():
        y, trials = y[counted], trials[counted]
    family.check_response(y, trials)
    # most responses differ in their first rows
    if np.ptp(y[:_FIRST] / trials[:_FIRST]) == 0.0 and np.ptp(y / trials) == 0.0:
        raise DataError(
            f"the response '{expression}' is constant ({y[0] / trials[0]:g} in all {len(y)} rows "
            "used): there is nothing to model"
        )
    return response


def check_weights(weights: np.ndarray | None, weights_type: str) -> None:
    """Raise for an unknown type (ArgumentError) or a negative weight (DataError)."""
    if weights_type not in WEIGHTS_TYPES:
        raise ArgumentError(
            f"weights_type is {weights_type!r}; expected one of {', '.join(WEIGHTS_TYPES)}"
        )
    if weights is not None and np.any(weights < 0):
        row = int(np.argmax(weights < 0))
        raise DataError(
            f"weights are negative in {np.sum(weights < 0)} rows (first: {weights[row]:g} in row "
            f"{row}); expected 0 or more: drop these rows or correct them"
        )


def _is_cbind(expression: Expression) -> bool:
    return isinstance(expression, Call) and expression.function == "cbind"


def _is_ratio(expression: Expression) -> bool:
    return isinstance(expression, Operation) and expression.operator == "/"


def _numeric(node: Expression, evaluation: Evaluation) -> Value:
    """A part of a ratio; a constant number of trials counts for every row."""
    numbers = evaluation.variable(node).numbers("'/'")
    return Numeric(np.broadcast_to(numbers, (len(evaluation.table),)))


def _from_trials(
    expression: Expression,
    parts: tuple[Value, ...],
    weights: np.ndarray | None,
    weights_type: str,
) -> Response:
    y, second = (part.numbers(f"'{expression}'") for part in parts)
    trials = second if _is_ratio(expression) else y + second
    if not _is_ratio(expression) and np.any(second < 0):
        raise DataError(f"'{expression}' has negative numbers of failures: check its second part")
    if weights is None:
        return Response(y, trials, np.ones_like(y))
    if weights_type == "prior" and _is_ratio(expression) and np.array_equal(weights, trials):
        note = "The weights equal the numbers of trials and are counted once."
        return Response(y, trials, np.ones_like(y), (note,))
    return Response(y, trials, weights)


def _from_values(
    expression: Expression,
    value: Value,
    family: ResponseFamily,
    weights: np.ndarray | None,
    weights_type: str,
) -> Response:
    if isinstance(value, Category):
        y = _second_level(expression, value, family)
    else:
        y = value.numbers(f"'{expression}'")
    if y.ndim != 1:
        raise FormulaError(f"the response '{expression}' has several columns, expected one")
    plain = Response(y, np.ones_like(y), np.ones_like(y) if weights is None else weights)
    proportion = np.any((y > 0) & (y < 1)) and np.all((y >= 0) & (y <= 1))
    if not family.takes_trials or family.takes_fractions or not proportion:
        return plain
    if weights is None or weights_type == "frequency":
        raise DataError(
            f"the response '{expression}' holds proportions, and the {family.name} family needs "
            "their numbers of trials: write successes / trials, or give weights=trials"
        )
    return _from_proportion(expression, y, weights)


def _from_proportion(expression: Expression, y: np.ndarray, weights: np.ndarray) -> Response:
    successes, trials = np.round(y * weights), np.round(weights)
    whole = np.isclose(y * weights, successes, rtol=1e-7, atol=1e-6) & np.isclose(weights, trials)
    if not whole.all():
        row = int(np.argmin(whole))
        raise DataError(
            f"the response '{expression}' is a proportion and weights are its trials, but "
            f"{y[row]:g} of {weights[row]:g} in row {row} is no whole number of successes out of a "
            "whole number of trials: give the number of trials as weights"
        )
    note = f"The weights are the numbers of trials of the proportion '{expression}'."
    return Response(successes, trials, np.ones_like(y), (note,))


def _without_empty_trials(response: Response) -> Response:
    """Rows with 0 successes out of 0 trials say nothing: they get weight 0 and one trial."""
    empty = (response.trials == 0) & (response.y == 0)
    if not empty.any():
        return response
    return replace(
        response,
        trials=np.where(empty, 1.0, response.trials),
        weights=np.where(empty, 0.0, response.weights),
        notes=(*response.notes, f"{empty.sum()} rows with 0 trials are not counted."),
    )


def _second_level(expression: Expression, value: Category, family: ResponseFamily) -> np.ndarray:
    """0 for the first level and 1 for the second."""
    used = value.used()
    if not family.takes_trials:
        raise DataError(
            f"the response '{expression}' holds the levels {', '.join(used.levels[:3])}, and the "
            f"{family.name} family needs numbers: convert it"
        )
    if len(used.levels) > 2:
        raise DataError(
            f"the response '{expression}' has {len(used.levels)} levels "
            f"({', '.join(used.levels[:4])}, ...), expected two: compare with one of them, "
            f'as in {expression} == "{used.levels[0]}"'
        )
    return used.codes.astype(float)
