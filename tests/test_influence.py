"""Groups left out, against fits of the data without them."""

from __future__ import annotations

import fitted
import numpy as np
import pytest

import mixedlm_jax as mlm
from mixedlm_jax.resampling import leave_out_groups


def test_influence_is_that_of_fits_without_the_group():
    model = fitted.recorded("cbpp_logit")
    found = mlm.influence(model)
    assert list(found.dfbetas.index) == list(model.ranef()["herd"].index)
    data = fitted.cbpp()
    for herd in ("1", "8", "14"):
        without = model.update(data=data[data["herd"] != herd])
        change = model.beta - without.beta
        cook = change @ np.linalg.solve(model.vcov().to_numpy(), change) / len(change)
        np.testing.assert_allclose(found.cooks_distance[herd], cook, rtol=1e-4)
        se = np.sqrt(np.diag(without.vcov()))
        np.testing.assert_allclose(found.dfbetas.loc[herd], change / se, rtol=1e-3, atol=1e-5)
    frame = found.to_dataframe()
    assert frame["cooks.distance"].is_monotonic_decreasing
    assert str(found).startswith("Influence of 15 groups")


def test_another_factor_than_the_first():
    model = fitted.recorded("grouseticks_three")
    with pytest.raises(mlm.ArgumentError, match="one of INDEX, BROOD, LOCATION"):
        mlm.influence(model)
    with pytest.raises(mlm.ArgumentError, match="'herd'"):
        mlm.influence(model, group="herd")
    factor = model.design.factors[2]
    assert model.labels.factors[2] == "LOCATION"
    lanes = leave_out_groups(model, factor.n_levels, 2)
    n = len(factor.levels)
    weights = np.where(factor.levels == np.arange(factor.n_levels)[:, None], 0.0, 1.0)
    found = np.asarray(lanes.responses.weights)
    np.testing.assert_array_equal(found[:, :n], weights)
    np.testing.assert_array_equal(found[:, n:], 0.0)
