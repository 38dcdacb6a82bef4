"""Data sets whose predictors differ, fitted together: each as a fit of its own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import mixedlm_jax as mlm
from mixedlm_jax.inference import standard_errors

FORMULA = "y ~ x + f + (1 + x | g)"


def data_sets() -> list[pd.DataFrame]:
    """Three imputations of a predictor, and one frame of fewer rows and one group less."""
    rng = np.random.default_rng(4)
    g = np.repeat(np.arange(20), 8)
    x = rng.normal(size=160)
    b = rng.normal(size=(2, 20)) * [[0.6], [0.4]]
    y = rng.poisson(np.exp(0.3 + 0.4 * x + b[0][g] + b[1][g] * x)).astype(float)
    whole = pd.DataFrame({"y": y, "x": x, "f": np.tile(list("abcd"), 40), "g": g})
    frames = []
    for _ in range(3):
        lost = rng.random(160) < 0.3
        frames.append(whole.assign(x=np.where(lost, rng.normal(size=160), x)))
    frames.append(frames[0].iloc[:150].assign(y=lambda own: own["y"].where(own["x"] < 2.0)))
    return frames


@pytest.fixture(scope="module")
def frames():
    return data_sets()


@pytest.fixture(scope="module")
def models(frames):
    return [mlm.glmer(FORMULA, frame, "poisson") for frame in frames]


@pytest.fixture(scope="module")
def fits(models, frames):
    return models[0].refit_many(frames, progress=False)


def test_each_data_set_is_fitted_as_alone(models, fits):
    assert fits.ok.tolist() == [True] * 4
    for lane, model in enumerate(models):
        assert fits.logLik[lane] == pytest.approx(float(model.logLik()), abs=1e-7)
        np.testing.assert_allclose(fits.beta[lane], model.beta, atol=1e-5)
        np.testing.assert_allclose(fits.theta[lane], model.theta, atol=1e-5)
        np.testing.assert_allclose(
            fits.se[lane], standard_errors(model.fixed_covariance), rtol=1e-5
        )
        assert fits.nobs[lane] == model.nobs
    assert np.ptp(fits.logLik[:3]) > 0.1


def test_pool_takes_the_batch_and_the_models_alike(models, fits):
    pd.testing.assert_frame_equal(mlm.pool(fits), mlm.pool(models), rtol=1e-4)


def test_frames_that_do_not_fit_are_named(models, frames):
    model = models[0]
    other = frames[1].assign(f="a").assign(f=lambda own: np.where(own["x"] > 0, "a", "b"))
    with pytest.raises(mlm.DataError, match=r"data set 1 has the coefficients .*same levels"):
        model.refit_many([frames[0], other])
    with pytest.raises(mlm.DataError, match=r"data set 1 has 20 levels of g and the model 19"):
        models[3].refit_many([frames[3], frames[0]])
    with pytest.raises(mlm.DataError, match="data set 0: the response 'y' is constant"):
        model.refit_many([frames[0].assign(y=1.0)])
    with pytest.raises(mlm.DataError, match="data set 1: column 'x' is not in the data"):
        model.refit_many((frames[0], frames[1].drop(columns="x")))
    with pytest.raises(mlm.ArgumentError, match="one grouping factor, and this one has none"):
        mlm.glm("y ~ x", frames[0], "poisson").refit_many(frames)
