"""All parameters of a fitted model as a user knows them: names, estimates and standard errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mixedlm_jax.dispersion import matrices_of, phi_names, phi_parameters
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.expression import suggest
from mixedlm_jax.families.base import Parameter
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.inference import Quantity, component_order, correlation, standard_errors
from mixedlm_jax.uncertainty import component_errors

GROUPS = {"theta_": ("sd", "cor", "phi"), "beta_": ("fixed",)}
"""What lme4's names for several parameters at once stand for."""


@dataclass(frozen=True)
class Estimate:
    """A parameter on the scale it is reported on.

    name: `sd_(Intercept)|herd`, `cor_Days.(Intercept)|Subject`, `sigma`, `period2`. se: nan where
    it is not known. parameter: of a dispersion or shape its range, None for all others.
    """

    name: str
    quantity: Quantity
    value: float
    se: float
    parameter: Parameter | None = None


def estimates(model: Fitted) -> list[Estimate]:
    """Standard deviations and correlations term by term, dispersion, fixed effects of all parts."""
    dispersion = _dispersion(model)
    own = [part for part in dispersion if part.parameter is not None]
    parts = [part for part in dispersion if part.parameter is None]
    errors = standard_errors(model.fixed_covariance)
    fixed = [
        Estimate(name, Quantity("fixed", i), float(value), float(se))
        for i, (name, value, se) in enumerate(
            zip(model.labels.fixed, model.fit.beta, errors, strict=True)
        )
    ]
    return [*_components(model), *own, *fixed, *parts]


def _components(model: Fitted) -> list[Estimate]:
    """Standard deviations and correlations, in the order of theta (lower triangles by columns)."""
    errors = iter(component_errors(model.design, model.family, model.fit))
    found = []
    for number, (part, term) in enumerate(
        zip(model.VarCorr().components, model.design.terms, strict=True)
    ):
        group = model.labels.factors[term.factor]
        sd, corr = standard_errors(part.covariance), correlation(part.covariance)
        for i, j in component_order(len(part.names), part.correlated):
            if i == j:
                name, value, quantity = f"sd_{part.names[i]}", sd[i], Quantity("sd", i, -1, number)
            else:
                name = f"cor_{part.names[i]}.{part.names[j]}"
                value, quantity = corr[i, j], Quantity("cor", i, j, number)
            se = float(next(errors))
            found.append(Estimate(f"{name}|{group}", quantity, float(value), se))
    return found


def _dispersion(model: Fitted) -> list[Estimate]:
    """The numbers of phi; `parameter` is None for coefficients of a part's formula."""
    phi = model.fit.phi
    names = phi_names(model.family, model.labels.parts)
    kinds = phi_parameters(model.family, matrices_of(model.family, model.design.parts))
    errors = standard_errors(model.fit.vcov)[len(model.fit.vcov) - len(phi) :]
    return [
        Estimate(name, Quantity("phi", i), float(value), float(se), kind)
        for i, (name, value, se, kind) in enumerate(zip(names, phi, errors, kinds, strict=True))
    ]


def chosen(parm: str | Sequence[str] | None, known: Sequence[Estimate]) -> list[Estimate]:
    """The parameters that are asked for, in the order they are asked for; None is all of them.

    Raises `ArgumentError` for a name that none of them has.
    """
    if parm is None:
        return list(known)
    by_name = {part.name: part for part in known}
    found: dict[str, Estimate] = {}
    for name in list(parm) if isinstance(parm, (list, tuple, pd.Index, np.ndarray)) else [parm]:
        if name in GROUPS:
            kinds = GROUPS[name]
            wanted = [part for part in known if part.quantity.kind in kinds]
        elif name in by_name:
            wanted = [by_name[name]]
        else:
            raise ArgumentError(
                f"parm names {name!r}, which is no parameter of the model"
                f"{suggest(str(name), list(by_name))}; it has {', '.join(by_name)}"
            )
        found |= {part.name: part for part in wanted}
    return list(found.values())
