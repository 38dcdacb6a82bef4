"""lme4's modular steps: formula, deviance function, optimisation, model.

    parsed = glFormula(formula, data, family)
    devfun = mkGlmerDevfun(parsed)
    fit = optimizeGlmer(devfun)
    model = mkGlmerMod(devfun, fit)

is what `glmer` does in one call, with every step in hand. For a function to differentiate, compile
or vmap see `mixedlm_jax.functional`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from mixedlm_jax.call import Call
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.design import Design, Labels
from mixedlm_jax.dispersion import phi_names
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.families import Family, resolve
from mixedlm_jax.fit import Fit
from mixedlm_jax.formula import parse
from mixedlm_jax.model import GlmerResult, announce
from mixedlm_jax.modes import JointModes
from mixedlm_jax.names import theta_names
from mixedlm_jax.objective import Objective, objective_for
from mixedlm_jax.optimize import Search, begin
from mixedlm_jax.problem import Problem, zero_effects
from mixedlm_jax.programs import evaluated
from mixedlm_jax.start import first_params
from mixedlm_jax.threads import single_blas_thread


@dataclass(frozen=True, eq=False)
class GlFormula:
    """A formula evaluated on data.

    Attributes
    ----------
    call
        What was asked for.
    design, labels
        The arrays (y, X, the grouping factors with their Z, weights, offset) and their names.
    """

    call: Call
    design: Design
    labels: Labels

    @classmethod
    def of(cls, call: Call) -> GlFormula:
        """The formula of a call on its data."""
        return cls(call, *call.build())


def glFormula(
    formula: str, data: Any, family: Family | type[Family] | str = "gaussian", **arguments: Any
) -> GlFormula:
    """Evaluate a formula on data; arguments are those of `glmer` that say what the model is.

    nAGQ, weights, weights_type, offset, na_action, contrasts, ziformula, dispformula, prior and
    control. Raises what `glmer` raises for them.
    """
    return GlFormula.of(
        Call(formula=parse(formula), data=data, family=resolve(family), **arguments)
    )


@dataclass(frozen=True, eq=False)
class DevianceFunction:
    """-2 log L of the flat parameters: a function for any optimiser.

    The parameters are theta, beta (not at nAGQ=0, where it is found with the modes) and phi, the
    dispersion parameters in unconstrained coordinates such as log sigma. -2 log L has every
    constant. With a prior -2 times its log-density is added.

    Attributes
    ----------
    names
        Of the parameters (d,).
    start
        Rough values to begin at (d,).
    lower
        Lower bounds as lme4 has them: 0 on the diagonals of theta's factors, else -inf (d,). The
        deviance is even in each column of a factor, so that an optimiser may ignore them.
    parsed
        The `GlFormula` it was made from.

    Examples
    --------
    >>> devfun = mlm.glmer("incidence / size ~ period + (1 | herd)", mlm.load_cbpp(), "binomial",
    ...     devFunOnly=True)
    >>> at = [0.6, -1.4, -1.0, -1.1, -1.6]
    >>> print(devfun.names[0], round(devfun(at), 4), devfun.gradient(at).round(3)[:2])
    herd.(Intercept) 184.1278 [-2.985 -0.324]
    """

    parsed: GlFormula
    names: tuple[str, ...]
    start: np.ndarray
    lower: np.ndarray
    _objective: Objective
    _problem: Problem
    _modes: Any

    def __call__(self, parameters: Iterable[float]) -> float:
        """-2 log L; inf where it is not finite. Raises `ArgumentError` for another length."""
        reached = self._at(parameters)
        with jax.enable_x64(True):
            return 2.0 * float(reached.value - self._problem.log_base)

    def gradient(self, parameters: Iterable[float]) -> np.ndarray:
        """The gradient of -2 log L (d,); 0 where that is not finite."""
        return 2.0 * np.array(self._at(parameters).gradient)

    def _at(self, parameters: Iterable[float]) -> Search:
        x = self._checked(parameters)
        with single_blas_thread(), jax.enable_x64(True):
            search = begin(x, self._modes, np.eye(len(x)))
            return evaluated(self._objective, self._problem, search)

    def _checked(self, parameters: Iterable[float]) -> np.ndarray:
        x = np.asarray(parameters, float)
        if x.shape != self.start.shape:
            raise ArgumentError(
                f"the parameters have shape {x.shape}; the deviance is a function of "
                f"{len(self.names)}: {', '.join(self.names)}"
            )
        return x

    def start_of(self, parameters: Iterable[float]) -> dict[str, np.ndarray]:
        """Flat parameters as `glmer`'s start values, phi on its natural scale."""
        x = self._checked(parameters)
        with jax.enable_x64(True):
            params = self._objective.params_of(self._problem, x, self._modes)
            natural = np.asarray(self._problem.reported_phi(params.phi))
        return {"theta": params.theta, "beta": np.asarray(params.beta), "phi": natural}


def mkGlmerDevfun(parsed: GlFormula) -> DevianceFunction:
    """The deviance function of a formula that was evaluated.

    Raises `ArgumentError` for an nAGQ that the model does not allow.
    """
    call, design = parsed.call, parsed.design
    objective = objective_for(int(call.nAGQ))
    with jax.enable_x64(True):
        problem = call.problem(design)
        objective.check(problem)
        first = first_params(problem, None)
        names = (
            tuple(theta_names(design, parsed.labels)),
            parsed.labels.fixed,
            phi_names(call.family, parsed.labels.parts),
        )
        lower = np.concatenate(
            [STRUCTURES[term.structure].lower(len(term.columns)) for term in design.terms]
        )
        bounds = (lower, np.full(len(first.beta), -np.inf), np.full(len(first.phi), -np.inf))
        return DevianceFunction(
            parsed=parsed,
            names=tuple(name for part in objective.metric_blocks(*names) for name in part),
            start=objective.x_of(first),
            lower=np.concatenate(objective.metric_blocks(*bounds)),
            _objective=objective,
            _problem=problem,
            _modes=objective.aux_of(JointModes(zero_effects(problem), first.beta)),
        )


def optimizeGlmer(
    devfun: DevianceFunction,
    start: Mapping[str, Any] | Iterable[float] | None = None,
    *,
    optimizer: str | None = None,
    verbose: int | None = None,
) -> Fit:
    """Minimise a deviance function as `glmer` does.

    Parameters
    ----------
    start
        As in `glmer`, or flat parameters: those another optimiser ended with, for instance.
    optimizer
        "bfgs" or "bobyqa", in place of the control's.
    verbose
        As in `glmer`.

    Returns
    -------
    Fit
        Arrays: estimates, modes, covariance, verdict.
    """
    parsed = devfun.parsed
    call = parsed.call
    if optimizer is not None:
        control = replace(call.control or GlmerControl(), optimizer=optimizer)
        call = replace(call, control=control)
    if start is not None and not isinstance(start, Mapping):
        start = devfun.start_of(start)
    return call.fit(parsed.design, start=start, verbose=verbose)


def mkGlmerMod(devfun: DevianceFunction, fit: Fit) -> GlmerResult:
    """The model of a deviance function and of what minimised it; warns as `glmer` does."""
    parsed = devfun.parsed
    model = GlmerResult(parsed.call, parsed.design, parsed.labels, fit)
    announce(model)
    return model
