"""What a simulation needs: a design, its names, and parameters; from a fit or from the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from mixedlm_jax.call import Call
from mixedlm_jax.design import Design, Labels
from mixedlm_jax.dispersion import coordinates, phi_names
from mixedlm_jax.errors import ArgumentError, DataError
from mixedlm_jax.families import Family, with_zeros
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.formula import parse
from mixedlm_jax.names import theta_names
from mixedlm_jax.problem import Params, make_problem
from mixedlm_jax.response import has_trials
from mixedlm_jax.simulate import check_count, check_seed, draw_responses, params_given
from mixedlm_jax.table import Table, free_name, with_columns


@dataclass(frozen=True, repr=False, eq=False)
class Scenario:
    """A design with parameters to simulate from.

    params: theta, beta, and phi in unconstrained coordinates (NumPy). first: of a design that was
    extended, for each row the size from which on the row is there (n,).
    """

    call: Call
    design: Design
    labels: Labels
    params: Params
    first: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    def __repr__(self) -> str:
        rows = len(self.design.y)
        groups = "".join(
            f", {factor.n_levels} levels of {name}"
            for factor, name in zip(self.design.factors, self.labels.factors, strict=True)
        )
        return f"<Scenario of {self.call.formula}: {rows} rows{groups}>"

    @property
    def family(self) -> Family:
        """The response family with its link."""
        return self.call.family

    def draw(self, seed: int, numbers: np.ndarray) -> np.ndarray:
        """Left-hand sides of the replicates with these numbers (replicates, n)."""
        return left_hand_sides(
            self, draw_responses(self.design, self.family, self.params, seed, numbers)
        )


def left_hand_sides(model: Fitted | Scenario, y: np.ndarray) -> np.ndarray:
    """Responses as the formula's left-hand side has them: a proportion where trials are weights."""
    family, trials = model.family, model.design.trials
    if family.takes_trials and not has_trials(model.call.formula.response, family):
        return y / trials
    return y


def parameter_names(call: Call, design: Design, labels: Labels) -> dict[str, tuple[str, ...]]:
    """Names of the entries of theta, beta and phi."""
    return {
        "theta": tuple(theta_names(design, labels)),
        "beta": labels.fixed,
        "phi": phi_names(call.family, labels.parts),
    }


def scenario_of(model: Fitted, newparams: Mapping[str, Any] | None = None) -> Scenario:
    """The scenario of a fit, or of other parameters in its place.

    newparams: any of theta, beta (or lme4's fixef) and phi, arrays or dicts by name. Raises
    `ArgumentError` for parameters that the model does not have.
    """
    with jax.enable_x64(True):
        problem = make_problem(model.design, model.family)
        phi = coordinates(model.family, problem.phi_matrices, np.asarray(model.fit.phi, float))
    found = Params(model.fit.theta, model.fit.beta, phi)
    if newparams is not None:
        if not isinstance(newparams, Mapping):
            raise ArgumentError(
                f"newparams is a {type(newparams).__name__}; give a dict such as {{'beta': ...}}"
            )
        given = {"beta" if name == "fixef" else name: part for name, part in newparams.items()}
        names = parameter_names(model.call, model.design, model.labels)
        found = params_given(problem, given, names, found)
    return Scenario(model.call, model.design, model.labels, found)


def fitted_scenario(scenario: Scenario) -> Fitted:
    """The scenario's model fitted to a response that was simulated from it.

    It is what searches of other responses start at.
    """
    y = draw_responses(scenario.design, scenario.family, scenario.params, 0, np.arange(1))[0]
    design = replace(scenario.design, y=y)
    return Fitted(scenario.call, design, scenario.labels, scenario.call.fit(design))


def extended(model: Fitted, along: str, n: int, group: str | None = None) -> Scenario:
    """The parameters of a fit with a design of another size; see `replicates.extend`."""
    names = grouping_columns(model)
    if not names:
        raise ArgumentError("extend adds groups, or rows to them, and the model has none")
    if group is None and len(names) == 1:
        group = names[0]
    if group not in names:
        raise ArgumentError(
            f"group is {group!r}; name the grouping column that is extended, one of "
            f"{', '.join(names)}"
        )
    kept = model.labels.kept
    frame = with_columns(Table(model.call.data), {}).loc[kept]
    levels = frame[group].astype(str).to_numpy()
    distinct = list(dict.fromkeys(levels))
    rows_of = {level: np.flatnonzero(levels == level) for level in distinct}
    rows, copies, first = [], [], []
    if along == "n_groups":
        for number in range(n):
            own = rows_of[distinct[number % len(distinct)]]
            rows.append(own)
            copies.append(np.full(len(own), number // len(distinct)))
            first.append(np.full(len(own), number + 1))
    elif along == "n_per_group":
        for own in rows_of.values():
            rows.append(np.resize(own, n))
            copies.append(np.zeros(n, int))
            first.append(np.arange(1, n + 1))
    else:
        raise ArgumentError(f"along is {along!r}; choose n_groups or n_per_group")
    row, copy = np.concatenate(rows), np.concatenate(copies)
    grown = frame.iloc[row].reset_index(drop=True)
    for name in names:
        # a column of groups inside the one that is copied gets new groups with it
        inside = pd.DataFrame({"inner": frame[name].astype(str), "outer": levels})
        nested = inside.drop_duplicates().groupby("inner").size().max() == 1
        if name == group or nested:
            named = zip(grown[name].astype(str), copy, strict=True)
            grown[name] = [f"{label}_{c + 1}" if c else label for label, c in named]
    arguments = {
        name: np.asarray(values)[kept][row]
        for name, values in {"weights": model.call.weights, "offset": model.call.offset}.items()
        if values is not None and not isinstance(values, str)
    }
    call = model.call.revised(None, grown, arguments)
    design, labels = call.build()
    if labels.fixed != model.labels.fixed:
        lost = ", ".join(sorted(set(model.labels.fixed) - set(labels.fixed)))
        raise DataError(f"a design of {along}={n} has no {lost}: give a larger number")
    present = np.concatenate(first)[labels.kept]
    return Scenario(call, design, labels, scenario_of(model).params, present)


def grouping_columns(model: Fitted) -> list[str]:
    """The columns of the data that grouping factors are made of."""
    nodes = dict.fromkeys(str(node) for term in model.call.formula.random for node in term.group)
    columns = Table(model.call.data).names
    return [name for name in nodes if name in columns]


def simulate_model(
    model: Fitted,
    nsim: int = 1,
    seed: int | None = None,
    re_form: str | None = "~0",
    newparams: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Simulated left-hand sides, rows used x nsim; see `GlmerResult.simulate`."""
    numbers = np.arange(check_count("nsim", nsim))
    scenario = scenario_of(model, newparams)
    y = draw_responses(
        model.design,
        model.family,
        scenario.params,
        check_seed(seed),
        numbers,
        b=model.fit.b,
        kept=model.labels.condition_on(re_form),
    )
    return _frame(scenario, y)


def simulate_design(
    formula: str,
    data: Any,
    family: Family,
    trials: Any,
    given: Mapping[str, Any],
    arguments: Mapping[str, Any],
    nsim: int,
    seed: int | None,
) -> pd.DataFrame:
    """Left-hand sides of a formula that was not fitted; see `replicates.simulate_formula`.

    given: theta, beta and phi. arguments: of `Call`, besides formula, data and family.
    """
    numbers = np.arange(check_count("nsim", nsim))
    seed = check_seed(seed)
    call = _with_response(formula, data, family, trials, arguments)
    design, labels = call.build()
    with jax.enable_x64(True):
        problem = make_problem(design, call.family)
    params = params_given(problem, dict(given), parameter_names(call, design, labels))
    scenario = Scenario(call, design, labels, params)
    return _frame(scenario, draw_responses(design, call.family, params, seed, numbers))


def _frame(scenario: Scenario, y: np.ndarray) -> pd.DataFrame:
    labels = scenario.labels
    columns = [f"sim_{number}" for number in range(1, len(y) + 1)]
    values = left_hand_sides(scenario, y).T
    return pd.DataFrame(values, index=labels.index[labels.kept], columns=columns)


def _with_response(
    formula: str, data: Any, family: Family, trials: Any, arguments: Mapping[str, Any]
) -> Call:
    """A call whose data hold some response that the family can have: a design needs one."""
    table = Table(data)
    left, _, right = str(formula).partition("~")
    name, its_trials = free_name("response", table), free_name("trials", table)
    if trials is not None:
        check_takes_trials(family)
    elif "/" in left:
        trials = _column_or_number(left.partition("/")[2].strip(), len(table))
    columns, written = {}, name
    if trials is not None:
        columns[its_trials] = table.numbers("trials", trials)
        written = f"{name} / {its_trials}"
    out_of = columns.get(its_trials, np.ones(len(table)))
    inflated = with_zeros(family, arguments.get("ziformula") is not None)
    columns[name] = possible_response(inflated, out_of)
    frame = with_columns(table, columns)
    return Call(parse(f"{written} ~ {right}"), frame, family, **arguments)


def check_takes_trials(family: Family) -> None:
    """Raise `ArgumentError` for a family whose responses are not out of trials."""
    if not family.takes_trials:
        raise ArgumentError(
            f"trials are given, and responses of the {family.name} family have none: leave them "
            "out, or give a binomial family"
        )


def _column_or_number(text: str, n: int) -> str | np.ndarray:
    """What stands behind the stroke of `successes / trials`."""
    try:
        return np.full(n, float(text))
    except ValueError:
        return text


def possible_response(family: Family, trials: np.ndarray) -> np.ndarray:
    """A response that the family can have and that is not constant (n,)."""
    with jax.enable_x64(True):
        phi = [jnp.zeros(())] * len(family.dispersion_names)
        eta = jnp.full(trials.shape, float(family.link.interior))
        for number in range(20):
            key = jax.random.key(number)
            y = np.array(family.sample(key, eta, phi, jnp.asarray(trials), jnp.ones_like(eta)))
            if np.all(np.isfinite(y)) and np.ptp(y / np.maximum(trials, 1.0)) > 0.0:
                return y
    raise DataError(
        f"no response of the {family.name} family that varies was found for {len(trials)} rows; "
        "give a design of more rows"
    )
