"""Responses drawn from a model: its parameters, with new random effects or those of the fit.

Every replicate has a random key of its own, made of the seed and the replicate's number: what is
drawn does not depend on how many are drawn, or how many at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax.arrays import Array
from mixedlm_jax.buckets import padded
from mixedlm_jax.compiled import program
from mixedlm_jax.design import Design
from mixedlm_jax.dispersion import at_rows, coordinates
from mixedlm_jax.elimination import Effects, predictor
from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.families import Family
from mixedlm_jax.problem import (
    Params,
    Problem,
    covariance_factors,
    fixed_predictor,
    make_problem,
)
from mixedlm_jax.threads import single_blas_thread

# Rows x replicates that are drawn together: a sampler's loops go on until the slowest row is done.
# One call draws so many such pieces, or one: there are two programs a design.
_ROWS = 4096
_PIECES = 16


def draw_responses(
    design: Design,
    family: Family,
    params: Params,
    seed: int,
    numbers: np.ndarray,
    *,
    b: Sequence[np.ndarray] | None = None,
    kept: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """Responses of the replicates with these numbers (replicates, n).

    Parameters
    ----------
    params
        theta, beta, and phi in unconstrained coordinates (NumPy).
    seed
        From 0; with a replicate's number it decides what is drawn.
    b, kept
        Random effects to keep, per factor (k, levels) on the scale of eta, and which of the k they
        are (k,) bool. All are drawn anew by default.

    Raises
    ------
    ArgumentError
        For a family that cannot be drawn from.
    DataError
        Where the random effects lead out of the domain of a restricted link.
    """
    full = padded(design)
    if b is None or kept is None:
        b = [np.zeros((factor.Z.shape[0], factor.n_levels)) for factor in design.factors]
        kept = [np.zeros(len(part), bool) for part in b]
    held = tuple(
        np.pad(part, ((0, 0), (0, factor.n_levels - part.shape[1])))
        for part, factor in zip(b, full.factors, strict=True)
    )
    n, parts = len(design.y), []
    with single_blas_thread(), jax.enable_x64(True):
        problem = jax.device_put(make_problem(full, family))
        key = np.asarray(jax.random.key_data(jax.random.key(seed)))
        at_once = max(1 << (_ROWS // len(full.y)).bit_length() >> 1, 1)
        pieces = np.resize(numbers, (-(-len(numbers) // at_once), at_once)).astype(np.uint32)
        many = len(pieces) - len(pieces) % _PIECES
        calls = [*pieces[:many].reshape((-1, _PIECES, at_once)), *pieces[many:, None]]
        for call in calls:
            drawn = np.asarray(_draw(problem, params, held, tuple(kept), key, call))
            parts.append(drawn.reshape((call.size, -1))[:, :n])
    y = np.concatenate(parts)[: len(numbers)]
    if np.any(np.isnan(y)):
        raise DataError(
            f"{np.sum(np.any(np.isnan(y), axis=1))} of {len(y)} replicates have rows whose random "
            f"effects lead out of the domain of the {family.link.name} link: simulate with smaller "
            "variances, or use another link"
        )
    return y


@program()
def _draw(
    problem: Problem,
    params: Params,
    b: Effects,
    kept: tuple[Array, ...],
    key: Array,
    pieces: Array,
) -> Array:
    """Responses for pieces (p, c) of replicate numbers: (p, c, rows)."""
    factors = covariance_factors(problem, params)
    fixed = fixed_predictor(problem, params.beta)
    phi = at_rows(problem.phi_matrices, params.phi)
    precision = jnp.ones_like(fixed)
    if problem.weights_are_precisions:
        precision = jnp.where(problem.weights > 0, problem.weights, 1.0)

    def one(number):
        own = jax.random.fold_in(jax.random.wrap_key_data(key), number)
        of_rows, *of_factors = jax.random.split(own, len(b) + 1)
        effects = []
        for factor, held, keep, of_factor in zip(factors, b, kept, of_factors, strict=True):
            drawn = factor @ jax.random.normal(of_factor, held.shape, fixed.dtype)
            effects.append(jnp.where(keep[:, None], held, drawn))
        eta = fixed + predictor(problem.plan, problem.Z, tuple(effects))
        y = problem.family.sample(of_rows, eta, phi, problem.trials, precision)
        return jnp.where(problem.family.in_domain(eta), y, jnp.nan)

    return jax.lax.map(jax.vmap(one), pieces)


def params_given(
    problem: Problem,
    values: dict[str, Any],
    names: dict[str, tuple[str, ...]],
    default: Params | None = None,
) -> Params:
    """Parameters as users give them: theta, beta and phi, arrays or dicts by name.

    values: phi on its natural scale; what is missing is taken from `default`. names: of the entries
    of each. Raises `ArgumentError` for what is missing, unknown, of another length or out of range.
    """
    unknown = set(values) - set(names)
    if unknown:
        raise ArgumentError(f"there are no parameters {unknown.pop()!r}; give {', '.join(names)}")
    found = {}
    for part, wanted in names.items():
        if part not in values:
            if default is None and len(wanted):
                raise ArgumentError(
                    f"{part} is missing: give {len(wanted)} numbers ({', '.join(wanted)})"
                )
            found[part] = np.zeros(0) if default is None else getattr(default, part)
            continue
        found[part] = _numbers(part, values[part], wanted)
        if part == "phi":
            found[part] = coordinates(problem.family, problem.phi_matrices, found[part])
            if not np.all(np.isfinite(found[part])):
                raise ArgumentError(
                    f"phi is {values[part]}, which the {problem.family.name} family cannot have"
                )
    return Params(found["theta"], found["beta"], found["phi"])


def _numbers(part: str, given: Any, names: tuple[str, ...]) -> np.ndarray:
    if isinstance(given, dict):
        if set(given) != set(names):
            raise ArgumentError(
                f"{part} names {', '.join(map(str, given))}; the model has {', '.join(names)}"
            )
        given = [given[name] for name in names]
    try:
        values = np.atleast_1d(np.asarray(given, float))
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{part} is {given!r}; give numbers") from error
    if values.shape != (len(names),) or not np.all(np.isfinite(values)):
        raise ArgumentError(
            f"{part} is {given!r}; give {len(names)} finite numbers ({', '.join(names)})"
        )
    return values


def check_seed(seed: int | None) -> int:
    """The seed, or one drawn from the system's entropy where it is None."""
    if seed is None and jax.process_count() > 1:
        raise ArgumentError("seed is missing: give one, so that all processes draw the same")
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise ArgumentError(f"seed is {seed!r}; give a whole number from 0, or None")
    return int(seed)


def check_count(name: str, count: int) -> int:
    """A number of replicates; `ArgumentError` for what is no whole number from 1."""
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
        raise ArgumentError(f"{name} is {count!r}; give a whole number from 1")
    return int(count)
