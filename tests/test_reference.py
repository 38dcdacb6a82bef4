"""Every recorded fit in scope, by formula and data frame: the numbers of independent engines."""

from __future__ import annotations

import numpy as np
import pytest
import records
from fitted import recorded

MODELS = list(records.MODELS)

# lme4 stopped 3e-7 log-likelihood units short of toenail's optimum, where its SEs were recorded;
# those of cake_invgauss are finite differences
SE_TOLERANCE = {"toenail_laplace": 5e-5, "cake_invgauss": 5e-5}
# brute-force quadrature took its Hessian by differences of its log-likelihood
QUADRATURE_SE_TOLERANCE = 2e-4
BOUNDARY_SD = 1e-3  # below it neither theta nor modes are compared


@pytest.fixture(scope="module", params=MODELS)
def case(request):
    """A recorded fit and ours of the same model."""
    return records.MODELS[request.param], recorded(request.param)


def on_boundary(record) -> bool:
    """Whether the recorded fit has a random effect without variance."""
    blocks = record["varcorr"].values()
    return any(sd < BOUNDARY_SD for block in blocks for sd in block["sd"].values())


def test_log_likelihood(case):
    record, model = case
    gain = float(model.logLik()) - record["logLik"]
    assert gain > -1e-6, f"{-gain:.2e} below the best known log-likelihood"
    assert gain < 1e-5, f"{gain:.2e} above an optimum that is known to that accuracy"
    assert model.converged
    assert model.AIC() == pytest.approx(record["AIC"], abs=2e-5)
    assert model.nobs == record["nobs"]


def test_fixed_effects(case):
    record, model = case
    ours, theirs, se = model.fixef(), record["fixef"], record["se"]
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert abs(ours[name] - value) < 2e-4 * se[name], name


def test_standard_errors(case):
    record, model = case
    usual = QUADRATURE_SE_TOLERANCE if record["nAGQ"] > 1 else 1e-5
    tolerance = SE_TOLERANCE.get(record["id"], usual)
    ours = np.sqrt(np.diag(model.vcov()))
    np.testing.assert_allclose(ours, list(record["se"].values()), rtol=tolerance)


def test_dispersion(case):
    record, model = case
    if record["dispersion"] is None or not model.dispersion:
        assert record["dispersion"] is None or record["family"] == "gaussian"
        return
    for name, value in model.dispersion.items():
        assert value == pytest.approx(record["dispersion"][name], rel=1e-4), name
    errors = np.sqrt(np.diag(model.vcov(full=True)))[-len(model.dispersion) :]
    assert np.all(errors > 0)


def test_zero_inflation(case):
    record, model = case
    if record["ziformula"] is None:
        assert list(model.labels.parts) == []
        return
    ours, theirs, se = model.fixef("zi"), record["fixef_zi"], record["se_zi"]
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert abs(ours[name] - value) < 2e-4 * se[name], name
    errors = np.sqrt(np.diag(model.vcov(component="zi")))
    np.testing.assert_allclose(errors, list(se.values()), rtol=1e-5)


def test_covariance_parameters(case):
    record, model = case
    if on_boundary(record):
        return
    frame = model.VarCorr().to_dataframe()
    own = frame[frame["grp"] != "Residual"]
    sigma = model.sigma if record["family"] == "gaussian" else 1.0
    seen = 0
    for group, block in record["varcorr"].items():
        for effect, sd in block["sd"].items():
            # the second term of a factor is numbered, Subject.1, as lme4 does; the file joins them
            same = own["grp"].str.replace(r"\.\d+$", "", regex=True) == group
            row = own[same & (own["var1"] == effect) & own["var2"].isna()]
            assert len(row) == 1, (group, effect)
            theirs = sd / sigma
            assert abs(row["sdcor"].item() / sigma - theirs) < 1e-4 * max(1, theirs)
            seen += 1
        if block["corr"] is not None:
            names = list(block["sd"])
            for i, j in zip(*np.triu_indices(len(names), 1), strict=True):
                pair = own[(own["var1"] == names[i]) & (own["var2"] == names[j])]
                seen += len(pair)
                # no row: two terms, uncorrelated by construction
                correlation = pair["sdcor"].item() if len(pair) else 0.0
                assert abs(correlation - block["corr"][i][j]) < 1e-4
    assert seen == len(own)
    np.testing.assert_allclose(model.theta, record["theta"], rtol=1e-4, atol=1e-4)


def test_random_effects(case):
    record, model = case
    if on_boundary(record):
        return
    ours = model.ranef()
    for group, levels in record["ranef"].items():
        for level, effects in levels.items():
            for effect, value in effects.items():
                assert abs(ours[group].loc[level, effect] - value) < 1e-4, (group, level, effect)


def test_predictions(case):
    record, model = case
    if on_boundary(record):
        return
    link = model.predict(type="link")[:10]
    fixed = model.predict(type="link", re_form="~0")[:10]
    np.testing.assert_allclose(link, record["predict_link_first10"], atol=1e-4)
    np.testing.assert_allclose(fixed, record["predict_link_fixed_first10"], atol=1e-4)
    np.testing.assert_allclose(
        model.predict()[:10], record["predict_response_first10"], rtol=1e-4, atol=1e-4
    )


def test_scope():
    """The file was read whole: 45 fits, nine of them by quadrature, two with zeros of their own."""
    assert len(MODELS) == 45
    assert len([name for name in MODELS if records.MODELS[name]["ziformula"]]) == 2
    assert len([name for name in MODELS if records.MODELS[name]["nAGQ"] > 1]) == 9
    assert len({records.MODELS[name]["family"] for name in MODELS}) == 11
