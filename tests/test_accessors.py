"""What a model hands out, against lme4's and broom.mixed's figures (`reference/make_accessors.R`).

lme4 was run with its tolerances as tight as they go; its inner iteration still leaves up to 2e-4
standard errors in the estimates, which are therefore compared to 2e-4 of their standard errors (as
in test_reference.py), other figures to 1e-4. Its standard errors are differences of the deviance,
good to about 5e-3; exact ones are recorded in models.json and compared to 1e-5. Joint covariances
and standard errors of components come from glmmTMB's exact gradients: 2e-6 and 1e-4.
"""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import fitted
import jax
import numpy as np
import pandas as pd
import pytest
import records
from fitted import CBPP
from scipy import sparse

import mixedlm_jax as mlm
from mixedlm_jax import getme
from mixedlm_jax.design import build
from mixedlm_jax.formula import parse
from mixedlm_jax.model_frame import model_frame
from mixedlm_jax.new_response import with_response
from mixedlm_jax.ranef import coefficients

REFERENCE = json.loads((records.FOLDER / "accessors.json").read_text("utf-8"))
THEIRS: dict[str, dict[str, Any]] = {model["id"]: model for model in REFERENCE["models"]}

close = np.testing.assert_allclose


@pytest.fixture(params=THEIRS, scope="module")
def both(request):
    """Our fit of a model, and what R says of it."""
    return fitted.recorded(request.param), THEIRS[request.param]


@pytest.fixture(scope="module")
def cbpp():
    return fitted.recorded("cbpp_logit")


@pytest.fixture(scope="module")
def sleepstudy():
    return fitted.recorded("sleepstudy_slope")


def redesign(formula, data, y, **arguments):
    """The design of a binomial model, and the same with another response."""
    parsed, family = parse(formula), mlm.families.Binomial()
    design, labels = build(parsed, data, family, **arguments)
    return design, with_response(design, labels, parsed, family, y)


def check_ends(ours, theirs, rtol=1e-4, atol=1e-5):
    """A long vector against head, tail, sum and sum of squares."""
    ours = np.asarray(ours, float)
    head, tail = np.array(theirs["head"], float), np.array(theirs["tail"], float)
    assert ours.shape == (theirs["size"],)
    close(ours[: len(head)], head, rtol=rtol, atol=atol)
    close(ours[-len(tail) :], tail, rtol=rtol, atol=atol)
    close(ours.sum(), theirs["sum"], rtol=rtol, atol=atol * len(ours))
    close((ours**2).sum(), theirs["squares"], rtol=2 * rtol, atol=atol)


def variances(model, condVar):
    """The arrays beside the modes, which must be there."""
    found = model.ranef(condVar=condVar).condVar
    assert found is not None
    return found


def check_frames(ours, theirs, model):
    se = {name: np.sqrt(model.vcov().loc[name, name]) for name in model.fixef()}
    assert list(ours) == list(theirs)
    for group, frame in ours.items():
        assert list(frame.index) == theirs[group]["levels"]
        assert list(frame.columns) == theirs[group]["columns"]
        for name, values in zip(frame, np.transpose(theirs[group]["values"]), strict=True):
            close(frame[name], values, rtol=1e-5, atol=2e-4 * se[name])


class TestEstimates:
    def test_coef_and_ranef(self, both):
        model, theirs = both
        check_frames(model.coef(), theirs["coef"], model)
        check_frames(model.ranef(), theirs["ranef"], model)

    def test_coef_of_an_effect_that_is_random_only(self):
        # lme4 counts it as fixed at 0, in the frames of all factors, and puts it first
        modes = {
            "g": pd.DataFrame({"(Intercept)": [1.0, 2.0], "x": [3.0, 4.0]}, index=["a", "b"]),
            "h": pd.DataFrame({"(Intercept)": [5.0]}, index=["c"]),
        }
        found = coefficients({"(Intercept)": 10.0, "z": 20.0}, modes)
        assert found["g"].to_dict("list") == {
            "x": [3.0, 4.0], "(Intercept)": [11.0, 12.0], "z": [20.0, 20.0],
        }  # fmt: skip
        assert found["h"].to_dict("index") == {"c": {"x": 0.0, "(Intercept)": 15.0, "z": 20.0}}

    def test_counts(self, both):
        model, theirs = both
        assert model.df_residual() == theirs["df_residual"]
        assert model.isGLMM() is theirs["isGLMM"]
        assert list(model.terms) == theirs["terms"]
        df, aic = model.extractAIC()
        assert df == theirs["extractAIC"][0]
        assert aic == pytest.approx(theirs["extractAIC"][1], abs=1e-5)

    def test_weights_and_offset(self, both):
        model, theirs = both
        check_ends(model.weights, theirs["weights"])
        check_ends(model.offset, theirs["offset"])
        assert model.weights.index.equals(model.fitted().index)

    def test_offset_column(self):
        model = fitted.recorded("sim_offset_poisson")
        data = records.frame(records.MODELS["sim_offset_poisson"])
        close(model.offset, data["log_time"])
        assert "(offset)" in model.model_frame()


class TestConditionalVariances:
    def test_given_the_parameters_as_lme4s(self, both):
        model, theirs = both
        ranef = model.ranef(condVar=True)
        check_frames(ranef, theirs["ranef"], model)
        assert list(ranef.condVar) == list(theirs["condVar"])
        for group, blocks in ranef.condVar.items():
            assert blocks.shape == (*ranef[group].shape, ranef[group].shape[1])
            close(blocks, theirs["condVar"][group], rtol=1e-4, atol=1e-5 * np.abs(blocks).max())

    def test_joint_as_glmmTMBs(self, both):
        model, theirs = both
        assert theirs["joint_gradient"] < 1e-8
        for group, blocks in variances(model, "joint").items():
            close(blocks, theirs["joint"][group], rtol=2e-6, atol=2e-6 * np.abs(blocks).max())

    def test_terms_of_one_factor_share_an_array(self):
        model = fitted.recorded("sleepstudy_uncorrelated")
        blocks = variances(model, True)["Subject"]
        assert blocks.shape == (18, 2, 2)
        assert np.all(blocks[:, 0, 1] < 0)  # correlated given the data, though not before

    def test_on_a_boundary_the_parameters_there_count_as_known(self):
        model = fitted.singular()
        for condVar in (True, "joint"):
            close(variances(model, condVar)["g"], 0.0, atol=1e-8)

    def test_not_asked_for(self, cbpp):
        assert cbpp.ranef().condVar is None

    @pytest.mark.parametrize("condVar", ["yes", 2, None])
    def test_unknown(self, cbpp, condVar):
        with pytest.raises(mlm.ArgumentError, match="choose False, True"):
            cbpp.ranef(condVar=condVar)


class TestGetME:
    def test_vectors(self, both):
        model, theirs = both
        for name in ("y", "mu", "u", "b"):
            check_ends(model.getME(name), theirs["getME"][name])

    def test_parameters(self, both):
        model, theirs = both
        close(model.getME("theta"), theirs["getME"]["theta"], rtol=1e-4)
        se = np.sqrt(np.diag(model.vcov()))
        close(model.getME("beta") / se, theirs["getME"]["beta"] / se, rtol=1e-5, atol=2e-4)
        assert model.getME("sigma") == pytest.approx(theirs["getME"]["sigma"], rel=1e-5)
        lower = np.array(theirs["getME"]["lower"])  # JSON has no infinity
        np.testing.assert_array_equal(model.getME("lower"), np.where(lower < -1e9, -np.inf, lower))
        names = list(model.vcov(full=True).index)[: len(lower)]
        assert names == theirs["getME"]["theta_names"]

    def test_matrices(self, both):
        model, theirs = both
        X, Z, Lambda = (model.getME(name) for name in ("X", "Z", "Lambda"))
        theirs = theirs["getME"]
        assert isinstance(X, np.ndarray)
        assert sparse.issparse(Z)
        assert sparse.issparse(Lambda)
        for ours, name in ((X, "X"), (Z, "Z"), (Lambda, "Lambda")):
            assert list(ours.shape) == theirs[name]["dim"]
        close(X.sum(axis=0), theirs["X"]["sums"], atol=1e-8)
        check_ends(Z.sum(axis=0), theirs["Z"]["sums"])
        close(Z.toarray()[[0, -1]], [theirs["Z"]["first"], theirs["Z"]["last"]])
        check_ends(Lambda.diagonal(), theirs["Lambda"]["diagonal"])
        close(Lambda.toarray()[:4, :4], theirs["Lambda"]["corner"], rtol=1e-4, atol=1e-6)
        close(Lambda.sum(), theirs["Lambda"]["sum"], rtol=1e-4)
        assert abs(model.getME("Zt") - Z.T).max() == abs(model.getME("Lambdat") - Lambda.T).max()

    def test_where_theta_stands(self, both):
        model, theirs = both
        check_ends(model.getME("Lind") + 1, theirs["getME"]["Lind"])
        Lambdat, Tp = model.getME("Lambdat"), model.getME("Tp")
        close(model.theta[model.getME("Lind")], Lambdat.data, rtol=1e-14)
        np.testing.assert_array_equal(Tp, np.cumsum([0, *model.getME("m_i")]))
        A, Zt = model.getME("A"), model.getME("Zt")
        assert abs(A - Lambdat @ Zt).max() == 0
        parts = model.getME("Ztlist")
        names = [f"{g}.{x}" for g, effects in model.getME("cnms").items() for x in effects]
        assert list(parts) == names
        first, k = next(iter(parts.values())), model.getME("p_i")[0]
        assert abs(first - Zt[: model.getME("Gp")[1] : k]).max() == 0

    def test_the_parts_fit_together(self, both):
        model, _ = both
        X, Z, Lambda = (model.getME(name) for name in ("X", "Z", "Lambda"))
        close(Lambda @ model.getME("u"), model.getME("b"), atol=1e-10)
        eta = X @ model.getME("beta") + Z @ model.getME("b") + model.getME("offset")
        close(eta, model.predict(type="link"))

    def test_counts(self, both):
        model, theirs = both
        theirs = theirs["getME"]
        for name in ("n", "p", "q", "n_rtrms", "n_rfacs", "k", "m"):
            assert model.getME(name) == theirs[name], name
        for name in ("Gp", "p_i", "q_i", "l_i", "m_i"):
            np.testing.assert_array_equal(model.getME(name), theirs[name], name)
        assert {k: list(v) for k, v in model.getME("cnms").items()} == theirs["cnms"]
        for name, column in model.getME("flist").items():
            assert list(column.cat.categories) == theirs["flist"][name]["levels"]
            assert list(column.iloc[:6]) == theirs["flist"][name]["head"]

    def test_terms_of_one_factor_have_columns_of_their_own(self):
        model = fitted.recorded("sleepstudy_uncorrelated")
        assert list(model.getME("cnms")) == ["Subject", "Subject.1"]
        Z = model.getME("Z")
        close(Z[:, [18]].toarray().ravel()[:10], np.arange(10))  # the first subject's days
        close(Z @ model.getME("b") + model.getME("X") @ model.beta, model.predict())

    @pytest.mark.parametrize("name", getme.PARTS)
    def test_no_part_is_a_jax_array(self, cbpp, name):
        assert not isinstance(cbpp.getME(name), jax.Array)

    def test_unknown(self, cbpp):
        with pytest.raises(mlm.ArgumentError, match=r"no part 'Lamda'; did you mean 'Lambda'\?"):
            cbpp.getME("Lamda")


class TestTidy:
    def test_fixed(self, both):
        model, theirs = both
        ours = model.tidy(conf_int=True, conf_level=0.9)
        theirs = theirs["tidy"]["fixed"]
        assert list(ours["term"]) == theirs["term"]
        assert set(theirs) <= {*ours.columns, "p.value"}
        for name in ("estimate", "std.error", "statistic", "conf.low", "conf.high"):
            close(ours[name], theirs[name], rtol=5e-3, atol=1e-4, err_msg=name)
        se = ours["std.error"]
        close(ours["estimate"] / se, theirs["estimate"] / se, rtol=1e-5, atol=2e-4)
        if "p.value" in theirs:
            close(np.log(ours["p.value"]), np.log(theirs["p.value"]), rtol=1e-2, atol=1e-2)
        exact = records.MODELS[both[1]["id"]]["se"]
        close(ours["std.error"], list(exact.values()), rtol=1e-5)

    @pytest.mark.parametrize("name", [name for name in THEIRS if THEIRS[name]["isGLMM"]])
    def test_exponentiated(self, name):
        ours = fitted.recorded(name).tidy(conf_int=True, exponentiate=True)
        theirs = THEIRS[name]["exponentiated"]
        for column in ("estimate", "std.error", "conf.low", "conf.high"):
            close(ours[column], theirs[column], rtol=5e-3, err_msg=column)

    def test_ran_pars(self, both):
        model, theirs = both
        ours = model.tidy("ran_pars")
        for name in ("effect", "group", "term"):
            assert list(ours[name]) == theirs["tidy"]["ran_pars"][name]
        close(ours["estimate"], theirs["tidy"]["ran_pars"]["estimate"], rtol=1e-4)
        close(ours["std.error"], theirs["component_se"], rtol=1e-4)  # glmmTMB, delta method

    def test_intervals_of_ran_pars(self, sleepstudy):
        ours = sleepstudy.tidy("ran_pars", conf_int=True).set_index("term")
        sd, corr = ours.loc["sd__Days"], ours.loc["cor__(Intercept).Days"]
        z = 1.959963984540054
        half = z * sd["std.error"] / sd["estimate"]
        close(
            np.log(sd[["conf.low", "conf.high"]].astype(float)),
            np.log(sd["estimate"]) + [-half, half],
        )
        half = z * corr["std.error"] / (1 - corr["estimate"] ** 2)
        limits = np.arctanh(corr[["conf.low", "conf.high"]].astype(float))
        close(limits, np.arctanh(corr["estimate"]) + [-half, half])

    def test_ran_vals(self, both):
        model, theirs = both
        ours = model.tidy("ran_vals", conf_int=True, conf_level=0.9)
        theirs = theirs["tidy"]["ran_vals"]
        for name in ("effect", "group", "level", "term"):
            assert list(ours[name]) == theirs[name]
        size = np.abs(theirs["estimate"]).max()
        for name in ("estimate", "std.error", "conf.low", "conf.high"):
            close(ours[name], theirs[name], rtol=1e-4, atol=1e-5 * size)

    def test_kinds_together(self, cbpp):
        whole = cbpp.tidy("all")
        assert list(whole["effect"].unique()) == ["fixed", "ran_pars", "ran_vals"]
        assert list(whole.columns) == [
            "effect", "group", "level", "term", "estimate", "std.error", "statistic", "p.value",
        ]  # fmt: skip
        some = cbpp.tidy(["ran_pars", "fixed"])
        assert list(some["effect"]) == ["fixed"] * 4 + ["ran_pars"]
        assert some["group"].isna().sum() == 4

    def test_bad_arguments(self, cbpp):
        with pytest.raises(mlm.ArgumentError, match="no effects 'random'; choose fixed"):
            cbpp.tidy("random")
        for effects in ("fixed", "ran_pars", "ran_vals"):
            with pytest.raises(mlm.ArgumentError, match="level is 95"):
                cbpp.tidy(effects, conf_int=True, conf_level=95)

    def test_errors_of_components_on_their_boundary_are_nan(self):
        table = fitted.singular().tidy("ran_pars", conf_int=True)
        assert table[["std.error", "conf.low", "conf.high"]].isna().all(axis=None)


class TestGlanceAndAugment:
    def test_glance(self, both):
        model, theirs = both
        ours = model.glance()
        assert list(ours.columns) == list(theirs["glance"])
        for name, (value,) in theirs["glance"].items():
            assert ours[name].item() == pytest.approx(value, rel=1e-6, abs=1e-5), name

    def test_columns_are_broom_mixeds(self, both):
        model, theirs = both
        assert list(model.model_frame().columns) == theirs["model_frame"]
        assert list(model.augment().columns) == theirs["augment"]["columns"]

    def test_rows(self, both):
        model, theirs = both
        ours, theirs = model.augment(), theirs["augment"]
        for name, values in theirs["values"].items():
            if name not in (".hat", ".cooksd"):
                check_ends(ours[name], values)
        # lme4's hat matrix of a GLMM has no working weights; the reference is dense algebra
        check_ends(ours[".hat"], theirs["hat"])
        check_ends(ours[".cooksd"], theirs["cooksd"], rtol=1e-3)
        if not model.isGLMM():
            check_ends(ours[".hat"], theirs["values"][".hat"])

    def test_model_frame_evaluates_what_the_formula_says(self):
        data = fitted.cbpp().assign(x=np.arange(56.0), o=0.1, q=0.3)
        data.loc[3, "x"] = np.nan
        formula = parse(
            "incidence / size ~ I(x^2) + poly(x, 2) + offset(o) + (period | herd:period)"
        )
        design, labels = build(formula, data, mlm.families.Binomial(), offset="q")
        frame = model_frame(formula, design, labels, data)
        assert list(frame.columns) == [
            "incidence/size", "I(x^2)", "poly(x, 2)1", "poly(x, 2)2", "period", "herd", "offset(o)",
            "(weights)", "(offset)",
        ]  # fmt: skip
        assert list(frame.index) == list(data.index.drop([3]))
        close(frame["incidence/size"], (data["incidence"] / data["size"]).drop(3))
        close(frame["I(x^2)"], data["x"].drop(3) ** 2)
        close(frame["(weights)"], data["size"].drop(3))
        close(frame["(offset)"], 0.3)
        assert list(frame["period"].cat.categories) == ["1", "2", "3", "4"]


class TestRefit:
    @pytest.mark.parametrize("name", [name for name in THEIRS if "refit" in THEIRS[name]])
    def test_as_lme4s(self, name):
        model, theirs = fitted.recorded(name), THEIRS[name]["refit"]
        again = model.refit(theirs["y"])
        assert again.logLik() == pytest.approx(theirs["logLik"], abs=1e-5)
        assert again.logLik() > theirs["logLik"] - 1e-6
        close(again.theta, theirs["theta"], rtol=1e-3, atol=1e-4)
        close(again.beta, theirs["fixef"], rtol=1e-3)
        assert again.refitted
        assert again.converged

    def test_of_its_own_response_is_the_same_model(self, cbpp):
        again = cbpp.refit(fitted.cbpp()["incidence"])
        assert again.logLik() == pytest.approx(cbpp.logLik(), abs=1e-9)
        assert again.optinfo["evaluations"] <= cbpp.optinfo["evaluations"]
        failures = fitted.cbpp()["size"] - fitted.cbpp()["incidence"]
        pair = pd.DataFrame({"s": fitted.cbpp()["incidence"], "f": failures})
        assert cbpp.refit(pair).logLik() == pytest.approx(cbpp.logLik(), abs=1e-9)
        assert cbpp.refit(pair[["s"]]).logLik() == pytest.approx(cbpp.logLik(), abs=1e-9)

    def test_shows_its_own_response(self, cbpp):
        y = np.minimum(fitted.cbpp()["incidence"].to_numpy()[::-1], fitted.cbpp()["size"])
        again = cbpp.refit(y)
        close(again.model_frame()["incidence/size"], y / fitted.cbpp()["size"])
        with pytest.raises(mlm.ArgumentError, match="give it as data="):
            again.update(". ~ . - period")

    def test_rows_that_were_dropped(self):
        data = fitted.cbpp().astype({"size": float})
        data.loc[5, "size"] = np.nan
        design, again = redesign(CBPP, data, data["incidence"] // 2)
        np.testing.assert_array_equal(again.y, data["incidence"].drop(5) // 2)
        np.testing.assert_array_equal(again.trials, design.trials)
        _, same = redesign(CBPP, data, data["incidence"].drop(5) // 2)
        np.testing.assert_array_equal(same.y, again.y)

    def test_every_way_to_write_two_levels(self):
        data = fitted.cbpp().assign(answer=np.where(np.arange(56) % 3, "no", "yes"))
        yes = data["answer"] == "yes"
        for same in (data["answer"], yes, yes.astype(int), yes.to_numpy(float)):
            design, again = redesign("answer ~ 1 + (1 | herd)", data, same)
            np.testing.assert_array_equal(again.y, design.y)

    def test_proportions_with_their_trials_as_weights(self):
        data = fitted.cbpp()
        y = np.minimum(data["incidence"].to_numpy()[::-1], data["size"])
        _, again = redesign("prop ~ 1 + (1 | herd)", data, y / data["size"], weights="size")
        np.testing.assert_array_equal(again.y, y)
        np.testing.assert_array_equal(again.trials, data["size"])
        np.testing.assert_array_equal(again.weights, 1.0)

    def test_cbind_takes_successes(self):
        data = fitted.cbpp().assign(healthy=lambda d: d["size"] - d["incidence"])
        y = np.minimum(data["incidence"].to_numpy()[::-1], data["size"])
        design, again = redesign("cbind(incidence, healthy) ~ 1 + (1 | herd)", data, y)
        np.testing.assert_array_equal(again.y, y)
        np.testing.assert_array_equal(again.trials, design.trials)

    def test_weights_stay(self):
        data = fitted.cbpp().assign(w=np.arange(56) % 3, count=fitted.cbpp()["incidence"])
        formula, family = parse("count ~ 1 + (1 | herd)"), mlm.families.Poisson()
        design, labels = build(formula, data, family, weights="w")
        again = with_response(design, labels, formula, family, data["count"] + 1)
        np.testing.assert_array_equal(again.weights, data["w"])

    def test_bad_responses(self, cbpp):
        y = fitted.cbpp()["incidence"].astype(float)
        with pytest.raises(mlm.ArgumentError, match="has 55 values; give one for each of the 56"):
            cbpp.refit(y[:55])
        with pytest.raises(mlm.ArgumentError, match="index differs"):
            cbpp.refit(y[::-1])
        with pytest.raises(mlm.ArgumentError, match="has 3 columns"):
            cbpp.refit(np.ones((56, 3)))
        with pytest.raises(mlm.ArgumentError, match="3 dimensions"):
            cbpp.refit(np.ones((56, 1, 1)))
        with pytest.raises(mlm.DataError, match="missing in 1 of the 56"):
            cbpp.refit(y.where(y.index != 4))
        with pytest.raises(mlm.DataError, match="100"):
            cbpp.refit(y.where(y.index != 4, 100.0))

    def test_compiles_nothing(self, cbpp, traces):
        cbpp.refit(fitted.cbpp()["incidence"])
        traces.clear()
        cbpp.refit(np.minimum(fitted.cbpp()["incidence"].to_numpy()[::-1], fitted.cbpp()["size"]))
        assert traces == []


class TestUpdate:
    def test_formula(self, cbpp):
        model = cbpp.update(". ~ . - period")
        assert model.formula == "incidence / size ~ (1 | herd)"
        assert model.update(". ~ period + .").logLik() == pytest.approx(cbpp.logLik(), abs=1e-9)

    def test_arguments_stay_or_change(self, cbpp):
        call = cbpp.call.revised(None, None, {"nAGQ": 0, "offset": "o"})
        assert (call.nAGQ, call.offset) == (0, "o")
        assert call.data is cbpp.call.data
        assert call.formula is cbpp.call.formula
        data = fitted.cbpp().iloc[:50]
        call = call.revised(". ~ . + (1 | period)", data, {"family": "poisson", "offset": None})
        assert (call.nAGQ, call.offset, call.family) == (0, None, mlm.families.Poisson())
        assert call.data is data
        assert str(call.formula) == CBPP + " + (1 | period)"
        with pytest.raises(mlm.ArgumentError, match=r"nAGQ is 2\.5"):
            call.revised(None, None, {"nAGQ": 2.5})

    def test_unknown_argument(self, cbpp):
        with pytest.raises(mlm.ArgumentError, match="no argument 'famly'; did you mean 'family'"):
            cbpp.update(famly="poisson")

    def test_warns_at_the_caller(self, cbpp):
        with pytest.warns(mlm.ConvergenceWarning) as caught:
            cbpp.update(control=mlm.GlmerControl(maxfun=2))
        assert caught[0].filename == __file__


class Wellformed(HTMLParser):
    """Checks that every tag is closed, in order, and gathers the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


class TestHtml:
    def test_model_and_summary(self, both):
        model, _ = both
        page = Wellformed(model._repr_html_())
        assert {"table", "th", "td"} <= page.tags
        for text in (*model.fixef(), *model.ngrps(), "Std. Error", "Variance"):
            assert any(text in found for found in page.text), text
        assert f"{float(model.logLik()):.4f}" in page.text
        assert model._repr_html_() == model.summary()._repr_html_()

    def test_variance_components(self, sleepstudy):
        page = Wellformed(sleepstudy.VarCorr()._repr_html_())
        assert page.text[:4] == ["Groups", "Name", "Std.Dev.", "Corr"]
        assert "Residual" in page.text

    def test_text_is_escaped(self):
        data = fitted.cbpp().rename(columns={"herd": "<b>herd</b> & co"})
        model = mlm.glmer("incidence / size ~ 1 + (1 | `<b>herd</b> & co`)", data, "binomial")
        for html in (model._repr_html_(), model.VarCorr()._repr_html_()):
            page = Wellformed(html)
            assert "b" not in page.tags
            assert any("<b>herd</b> & co" in text for text in page.text)
