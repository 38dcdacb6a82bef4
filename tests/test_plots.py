"""Pictures: what is drawn are the numbers of other accessors, on the Axes that were given."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from statistics import NormalDist

import fitted
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

import mixedlm_jax as mlm
from mixedlm_jax.canvas import bins, ratio_axis

mpl.use("Agg")
Z = NormalDist().inv_cdf(0.975)


@cache
def plain() -> mlm.GlmerResult:
    """A model without random effects, with a number that is coded as a factor."""
    rng = np.random.default_rng(5)
    k = np.repeat([3, 5, 9], 40)
    x = rng.normal(2.0, 1.0, len(k))
    y = rng.poisson(np.exp(0.3 + 0.4 * (k == 5) + 0.2 * x))
    data = pd.DataFrame({"y": y, "k": k, "x": x, "on": rng.random(len(k)) < 0.3})
    return mlm.glm("y ~ factor(k) * x + on", data, "poisson")


def blank(rows=1, columns=1, size=(6.4, 4.8)):
    """Axes of a figure that pyplot does not know."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots(rows, columns)


def segments(ax, number=0):
    """The lines of a collection (lines, 2, 2)."""
    found = [c for c in ax.collections if isinstance(c, mpl.collections.LineCollection)]
    return np.array(found[number].get_segments())


def conditional_sd(model, group, effect=0):
    """Conditional standard deviations of a random effect (levels,)."""
    variances = model.ranef(condVar=True).condVar
    return np.sqrt(variances[group][:, effect, effect])


def labels(ax):
    return [text.get_text() for text in ax.get_yticklabels()]


def overlap(texts, renderer):
    """Whether some of these texts lie on each other."""
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    return any(one.overlaps(two) for one, two in zip(boxes, boxes[1:], strict=False))


def assert_legible(ax):
    renderer = ax.figure.canvas.get_renderer()
    ax.figure.canvas.draw()
    assert not overlap(ax.get_yticklabels(), renderer)
    assert not overlap(ax.get_xticklabels(), renderer)
    box, others = ax.figure.bbox, [other for other in ax.figure.axes if other is not ax]
    for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
        if not text.get_text():
            continue
        own = text.get_window_extent(renderer)
        assert box.x0 - 1 <= own.x0 < own.x1 <= box.x1 + 1, text.get_text()
        assert box.y0 - 1 <= own.y0 < own.y1 <= box.y1 + 1, text.get_text()
        for other in others:
            for its in (other.title, other.xaxis.label, other.yaxis.label):
                assert not overlap([text, its], renderer), text.get_text()


# ----------------------------------------------------------------------------------------------
# Random effects


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_caterpillars_hold_the_modes_and_their_intervals(level):
    model = fitted.recorded("sleepstudy_slope")
    axes = blank(1, 2)
    assert mlm.plot_ranef(model, axes, level=level) is axes
    for i, (ax, name) in enumerate(zip(axes, ("(Intercept)", "Days"), strict=True)):
        modes, sd = model.ranef()["Subject"][name], conditional_sd(model, "Subject", i)
        order = np.argsort(modes.to_numpy())
        drawn, place = ax.get_lines()[0].get_xdata(), ax.get_lines()[0].get_ydata()
        np.testing.assert_allclose(drawn, modes.to_numpy()[order])
        np.testing.assert_array_equal(place, np.arange(18))
        z = NormalDist().inv_cdf(0.5 + 0.5 * level)
        ends = segments(ax)
        np.testing.assert_allclose(ends[:, 0, 0], (modes - z * sd).to_numpy()[order])
        np.testing.assert_allclose(ends[:, 1, 0], (modes + z * sd).to_numpy()[order])
        assert labels(ax) == list(modes.index[order])
        assert ax.get_title() == f"Subject: {name}"
        words = f"conditional mode, {100 * level:g}% interval"
        assert ax.get_xlabel().split("\n") == [words, "(units of the response)"]
        assert_legible(ax)


def test_caterpillars_of_few_and_of_many_levels_are_legible():
    few = mlm.plot_ranef(fitted.recorded("cbpp_logit"), blank())
    assert len(labels(few)) == 15
    assert_legible(few)
    many = mlm.plot_ranef(fitted.recorded("toenail_laplace"), blank())
    assert labels(many) == []
    assert many.get_ylabel() == "294 levels of patientID, sorted"
    assert many.collections[0].get_linewidths()[0] < few.collections[0].get_linewidths()[0]
    assert_legible(many)


def test_a_standard_deviation_of_0_is_said():
    for draw in (mlm.plot_ranef, mlm.plot_qq):
        ax = draw(fitted.singular(), blank())
        assert ax.texts[0].get_text() == "standard deviation 0"
        assert_legible(ax)


def test_one_panel_for_each_random_effect():
    model = fitted.recorded("grouseticks_three")
    axes = mlm.plot_ranef(model)
    assert [ax.get_title() for ax in axes] == [
        "INDEX: (Intercept)",
        "BROOD: (Intercept)",
        "LOCATION: (Intercept)",
    ]
    assert axes[0].figure.get_size_inches()[1] <= 8.0
    plt.close(axes[0].figure)
    ax = blank()
    assert model.plot_ranef(ax, group="BROOD") is ax
    assert ax.get_title() == "BROOD: (Intercept)"


def test_qq_plot_of_random_effects():
    model = fitted.recorded("cbpp_logit")
    ax = blank()
    assert model.plot_qq(ax) is ax
    modes = np.sort(model.ranef()["herd"]["(Intercept)"])
    points, line = ax.get_lines()
    expected = stats.norm.ppf((np.arange(15) + 0.5) / 15)
    np.testing.assert_allclose(points.get_xdata(), expected)
    np.testing.assert_allclose(points.get_ydata(), modes)
    slope = stats.iqr(modes) / stats.iqr(expected)
    assert line.get_slope() == pytest.approx(slope)
    ends = segments(ax)
    widths = 2 * Z * np.sort(conditional_sd(model, "herd"))
    np.testing.assert_allclose(np.sort(np.diff(ends[:, :, 1]).ravel()), widths)
    assert_legible(ax)


# ----------------------------------------------------------------------------------------------
# Residuals


def test_panels_of_residuals():
    model = fitted.recorded("cbpp_logit")
    axes = blank(2, 2, size=(8, 7))
    assert model.plot(axes, nsim=60) is axes
    fit, qq, quantile, modes = axes.ravel()
    drawn = np.asarray(fit.collections[0].get_offsets())
    np.testing.assert_allclose(drawn[:, 0], model.predict(type="link"))
    np.testing.assert_allclose(drawn[:, 1], model.residuals("pearson"))
    simulated = mlm.simulate_residuals(model, nsim=60, seed=1)
    ordered = np.asarray(qq.collections[0].get_offsets())
    np.testing.assert_allclose(ordered[:, 1], np.sort(simulated.residuals))
    np.testing.assert_allclose(ordered[:, 0], (np.arange(56) + 0.5) / 56)
    assert qq.texts[0].get_text() == f"uniform: p = {simulated.uniformity().p_value:.2g}"
    drawn = np.asarray(quantile.collections[0].get_offsets())
    np.testing.assert_allclose(drawn[:, 1], simulated.residuals)
    # a bin for each period
    eta = model.predict(type="link", re_form="~0")
    np.testing.assert_allclose(drawn[:, 0], eta, atol=0.03)
    expected = simulated.residuals.groupby(eta).median()
    np.testing.assert_allclose(quantile.get_lines()[2].get_xydata(), expected.reset_index())
    assert modes.get_title() == "herd: (Intercept)"
    for ax in axes.ravel():
        assert_legible(ax)


def test_residuals_without_random_effects():
    model = plain()
    axes = model.plot(nsim=60)
    assert [ax.get_title().split(" (")[0] for ax in axes] == [
        "Residuals against fitted",
        "QQ of quantile residuals",
        "Quantile residuals, quartiles in bins",
    ]
    plt.close(axes[0].figure)
    ax = blank()
    assert mlm.plot_qq(model, ax, what="residuals", nsim=60) is ax
    expected = mlm.simulate_residuals(model, nsim=60, seed=1).residuals
    drawn = np.asarray(ax.collections[0].get_offsets())[:, 1]
    np.testing.assert_allclose(drawn, np.sort(expected))


def test_bins_are_about_equally_full_and_keep_equal_values_together():
    x = np.random.default_rng(1).integers(0, 40, 1000) / 7
    code = bins(x, 8)
    counts = np.bincount(code)
    assert len(counts) == 8
    assert counts.min() > 80
    for value in np.unique(x):
        assert len(np.unique(code[x == value])) == 1
    assert np.all(np.diff(code[np.argsort(x)]) >= 0)
    np.testing.assert_array_equal(bins(np.array([5.0, 1.0, 5.0, 2.0]), 3), [2, 0, 2, 1])


# ----------------------------------------------------------------------------------------------
# Profiles


def test_profiles_end_where_their_intervals_do():
    model = fitted.recorded("cbpp_logit")
    parm = ["sd_(Intercept)|herd", "period2"]
    axes = blank(1, 2)
    assert model.plot_profile(axes, parm=parm, level=0.9) is axes
    limits = model.confint(parm, level=0.9, method="profile")
    z = NormalDist().inv_cdf(0.95)
    for ax, name in zip(axes, parm, strict=True):
        low, high = map(float, limits.loc[name])
        straight, curve = ax.get_lines()[:2]
        value, zeta = curve.get_xdata(), curve.get_ydata()
        np.testing.assert_allclose([value[0], value[-1]], [low, high], rtol=1e-4)
        np.testing.assert_allclose([zeta[0], zeta[-1]], [-z, z], rtol=1e-4)
        assert np.all(np.diff(zeta) > 0)
        assert f"90%: {low:.3g} to {high:.3g}" in ax.get_title()
        drops = sorted(np.concatenate([segments(ax, i)[:, 0, 0] for i in (0, 1)]))
        np.testing.assert_allclose(drops, [low, high], rtol=1e-4)
        rise = np.diff(straight.get_ydata()) / np.diff(straight.get_xdata())
        rows = model.tidy(["fixed", "ran_pars"]).set_index("term")["std.error"]
        se = rows[{"period2": "period2"}.get(name, "sd__(Intercept)")]
        assert rise.item() == pytest.approx(1 / se)
        assert_legible(ax)


def test_profile_of_a_standard_deviation_at_its_bound():
    ax = fitted.singular().plot_profile(blank(), parm="sd_(Intercept)|g")
    assert "95%: 0 to " in ax.get_title()
    curve = ax.get_lines()[0].get_xydata()
    assert curve[0] == pytest.approx([0, 0], abs=1e-6)
    assert len([c for c in ax.collections if isinstance(c, mpl.collections.LineCollection)]) == 1


# ----------------------------------------------------------------------------------------------
# Effects


def typical(model, n, **given):
    """New rows of contraception at its means and most common levels."""
    data = model.call.data
    held = {"age": data["age"].mean(), "urban": "N", "livch": data["livch"].mode()[0]}
    return pd.DataFrame({name: np.broadcast_to(v, n) for name, v in (held | given).items()})


def assert_band(band, x, expected):
    """A band over x (200,) has these limits."""
    corners = np.asarray(band.get_paths()[0].vertices)
    for i in (0, 57, 199):
        height = corners[np.isclose(corners[:, 0], x[i]), 1]
        np.testing.assert_allclose(height.min(), expected["lower"].iloc[i])
        np.testing.assert_allclose(height.max(), expected["upper"].iloc[i])


def test_a_line_is_the_prediction_and_its_band():
    model = fitted.recorded("contraception_slope")
    ax = blank()
    assert model.plot_effects("age", ax) is ax
    line = ax.get_lines()[-1]
    age = line.get_xdata()
    data = model.call.data
    assert (age[0], age[-1]) == (data["age"].min(), data["age"].max())
    new = typical(model, len(age), age=age)
    expected = model.predict(new, re_form="~0", interval="confidence")
    np.testing.assert_allclose(line.get_ydata(), expected["fit"])
    (band,) = [c for c in ax.collections if isinstance(c, mpl.collections.PolyCollection)]
    assert_band(band, age, expected)
    title = ax.get_title()
    assert "typical group (b = 0), 95% confidence band" in title
    assert f"urban = N (most common), livch = {data['livch'].mode()[0]} (most common)" in title
    assert ax.get_ylabel() == "probability of use"
    # binary responses, of the rows at the levels held: shares in bins average to that of all
    seen = data.query("urban == 'N' and livch == @data.livch.mode()[0]")
    assert f"data: the {len(seen)} of 1934 rows at these levels" in title.replace("\n", " ")
    ticks, shares = ax.get_lines()[:2]
    np.testing.assert_array_equal(ticks.get_xydata(), seen[["age", "use"]])
    assert shares.get_ydata().mean() == pytest.approx(seen["use"].mean(), abs=0.02)
    assert_legible(ax)


def test_lines_by_a_factor_and_population_averages():
    model = fitted.recorded("contraception_slope")
    ax = mlm.plot_effects(
        model, "age", blank(), by="urban", at={"livch": "2"}, re_form="marginal", data=False
    )
    lines = ax.get_lines()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["N", "Y"]
    for line, band, urban in zip(lines, ax.collections, ("N", "Y"), strict=True):
        new = typical(model, 200, age=line.get_xdata(), urban=urban, livch="2")
        expected = model.predict(new, re_form="marginal", interval="confidence")
        np.testing.assert_allclose(line.get_ydata(), expected["fit"])
        assert_band(band, line.get_xdata(), expected)
    assert "averaged over the random effects, 95% confidence band" in ax.get_title()
    assert "livch = 2" in ax.get_title()


def test_levels_of_a_factor_over_shares_of_trials():
    model = fitted.recorded("cbpp_logit")
    ax = mlm.plot_effects(model, "period", blank(), level=0.8)
    expected = model.predict(
        pd.DataFrame({"period": list("1234")}), re_form="~0", interval="confidence", level=0.8
    )
    np.testing.assert_allclose(ax.get_lines()[-1].get_ydata(), expected["fit"])
    ends = segments(ax)
    np.testing.assert_allclose(ends[:, 0, 1], expected["lower"])
    np.testing.assert_allclose(ends[:, 1, 1], expected["upper"])
    data = model.call.data
    drawn = np.asarray(ax.collections[0].get_offsets())
    np.testing.assert_allclose(drawn[:, 1], data["incidence"] / data["size"])
    np.testing.assert_array_equal(np.rint(drawn[:, 0]), data["period"].astype(int) - 1)
    areas = ax.collections[0].get_sizes()
    np.testing.assert_allclose(areas / areas[0], data["size"] / data["size"].iloc[0])
    assert [text.get_text() for text in ax.get_xticklabels()] == list("1234")
    assert_legible(ax)


def test_numbers_coded_as_factors_truth_values_and_quartiles():
    model = plain()
    data = model.call.data
    ax = mlm.plot_effects(model, "k", blank(), by="x", type="link")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["3", "5", "9"]
    assert ax.get_title() == "95% confidence intervals\nat on = FALSE (most common)"
    quartiles = np.quantile(data["x"], [0.25, 0.5, 0.75])
    assert len(ax.get_lines()) == 3  # no data on this scale
    for line, x in zip(ax.get_lines(), quartiles, strict=True):
        new = pd.DataFrame({"k": [3, 5, 9], "x": x, "on": False})
        np.testing.assert_allclose(line.get_ydata(), model.predict(new, type="link"))
    ax = mlm.plot_effects(model, "x", blank(), at={"k": 9, "on": True})
    new = pd.DataFrame({"k": 9, "x": ax.get_lines()[-1].get_xdata(), "on": True})
    np.testing.assert_allclose(ax.get_lines()[-1].get_ydata(), model.predict(new))
    assert "at k = 9, on = TRUE" in ax.get_title()
    assert ax.get_ylabel() == "mean of y"
    drawn = np.asarray(ax.collections[0].get_offsets())
    np.testing.assert_allclose(drawn, data.query("k == 9 and on")[["x", "y"]])
    assert f"data: the {len(drawn)} of 120 rows" in ax.get_title().replace("\n", " ")


# ----------------------------------------------------------------------------------------------
# Forests


def test_forests_hold_the_intervals():
    model = fitted.recorded("cbpp_logit")
    ax = blank()
    assert model.plot_forest(ax) is ax
    names = ["period2", "period3", "period4"]
    assert labels(ax) == names
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top
    np.testing.assert_allclose(ax.get_lines()[0].get_xdata(), [model.fixef()[n] for n in names])
    limits = model.confint(names)
    np.testing.assert_allclose(segments(ax)[:, :, 0], limits)
    assert ax.get_xlabel() == "coefficient (log-odds), 95% Wald interval"
    assert ax.get_legend() is None
    ax = mlm.plot_forest(model, blank(), exp=True, level=0.8, parm=["period4", "(Intercept)"])
    limits = model.confint(["period4", "(Intercept)"], level=0.8)
    np.testing.assert_allclose(segments(ax)[:, :, 0], np.exp(limits))
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "odds ratio, 80% Wald interval"
    assert_legible(ax)
    ax = mlm.plot_forest(model, blank(), parm="theta_", method="profile")
    limits = model.confint("theta_", method="profile")
    np.testing.assert_allclose(segments(ax)[:, :, 0], limits)
    assert ax.get_xlabel() == "coefficient (log-odds), 95% profile interval"


def test_forests_of_several_models():
    slope, ticks = fitted.recorded("contraception_slope"), fitted.recorded("grouseticks_three")
    ax = mlm.plot_forest({"use": slope, "ticks": ticks}, blank())
    assert labels(ax) == [*list(slope.fixef())[1:], *list(ticks.fixef())[1:]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["use", "ticks"]
    rows = segments(ax, 1)
    np.testing.assert_allclose(rows[:, :, 0], ticks.confint("beta_").iloc[1:])
    first = len(slope.fixef()) - 1
    np.testing.assert_allclose(rows[:, 0, 1], first + np.arange(3) + 0.1)
    assert ax.get_xlabel() == "coefficient (log-odds / log scale), 95% Wald interval"
    ax = mlm.plot_forest([slope, ticks], blank(), parm=["age", "cHEIGHT"])
    assert labels(ax) == ["age", "cHEIGHT"]


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.08), (0.3, 4.0), (1e-3, 700.0), (0.99, 1.006)])
def test_ratios_have_ticks_that_can_be_read(low, high):
    ax = blank()
    ratio_axis(ax, low, high)
    ticks = [text.get_text() for text in ax.get_xticklabels()]
    assert 3 <= len(ticks) <= 9
    np.testing.assert_allclose([float(tick) for tick in ticks], ax.get_xticks(), rtol=1e-3)
    assert_legible(ax)


# ----------------------------------------------------------------------------------------------
# What goes wrong


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda m: mlm.plot_ranef(m, 3), "ax holds a int; plot_ranef draws on matplotlib Axes"),
        (lambda m: mlm.plot_ranef(m, blank(1, 2)), r"holds 2 Axes, and .* 1 panel to draw \(herd"),
        (lambda m: m.plot(blank()), "ax holds one Axes, and plot_residuals has 4 panels to draw"),
        (lambda m: mlm.plot_ranef(m, group="heard"), "no grouping factor .*did you mean 'herd'"),
        (lambda m: mlm.plot_ranef(m, level=95), "level is 95"),
        (lambda m: mlm.plot_ranef("cbpp"), "plot_ranef takes a model that glmer returned"),  # type: ignore[arg-type]
        (lambda m: mlm.plot_qq(m, what="pearson"), "what is 'pearson'; plot_qq draws 'ranef' or"),
        (lambda m: mlm.plot_profile(m, parm="priod2"), "did you mean 'period2'"),
        (
            lambda m: m.plot_effects("herd"),
            "'herd' is no column that predictions depend on.*period",
        ),
        (lambda m: m.plot_effects("period", by="period"), "by is 'period', which is the predictor"),
        (lambda m: m.plot_effects("period", at={"period": "1"}), "at holds 'period'"),
        (lambda m: m.plot_effects("period", type="zprob"), "type is 'zprob'; plot_effects draws"),
        (lambda m: m.plot_effects("period", re_form=None), "re_form is None; choose '~0'"),
        (lambda m: mlm.plot_forest([]), "there is none"),
        (lambda m: mlm.plot_forest([m, 3]), "plot_forest takes a model"),
        (lambda m: mlm.plot_forest(m, parm="age"), "names 'age', which is no parameter"),
        (lambda m: mlm.plot_forest(m, parm="theta_", exp=True), "'sd_.*herd' is none"),
        (lambda m: mlm.plot_forest(fitted.singular()), "no coefficients but the intercept"),
        (lambda m: mlm.plot_ranef(plain()), "draws random effects, and the model has none"),
        (lambda m: mlm.plot_qq(plain()), "has none; give what='residuals'"),
    ],
)
def test_what_cannot_be_drawn_is_said(draw, message):
    with pytest.raises(mlm.ArgumentError, match=message):
        draw(fitted.recorded("cbpp_logit"))
    assert not plt.get_fignums()


def test_re_form_na_is_the_typical_group():
    model = fitted.recorded("cbpp_logit")
    own = model.plot_effects("period", blank(), re_form="NA")
    same = model.plot_effects("period", blank(), re_form="~0")
    assert own.get_title() == same.get_title()
    np.testing.assert_array_equal(own.lines[-1].get_ydata(), same.lines[-1].get_ydata())


def test_a_number_of_many_lines_is_refused():
    data = fitted.cbpp().assign(cow=[f"c{i:02d}" for i in np.arange(56) % 14])
    model = mlm.glm("prop ~ period + cow", data)
    with pytest.raises(mlm.ArgumentError, match=r"by='cow' has 14 levels.*at most 12"):
        model.plot_effects("period", by="cow")
    ax = model.plot_effects("cow", blank(size=(4, 3)))
    assert_legible(ax)


def test_a_mean_with_structural_zeros_of_a_polars_frame():
    polars = pytest.importorskip("polars")
    rng = np.random.default_rng(3)
    x = rng.normal(size=120)
    y = rng.poisson(np.exp(0.8 + 0.5 * x)) * (rng.random(120) < 0.7)
    model = mlm.glm("y ~ x", polars.DataFrame({"x": x, "y": y}), "poisson", ziformula="~ 1")
    ax = model.plot_effects("x", blank(), data=False)
    (line,), (band,) = ax.get_lines(), ax.collections
    expected = model.predict(pd.DataFrame({"x": line.get_xdata()}), interval="confidence")
    np.testing.assert_allclose(line.get_ydata(), expected["fit"])
    assert_band(band, line.get_xdata(), expected)
    assert ax.get_title() == "95% confidence band"
    ax = model.plot_effects("x", blank(), level=None, data=False)
    assert not ax.collections
    assert ax.get_title() == "no band"


def test_nothing_is_drawn_that_the_data_do_not_determine():
    cells = [("u", "p"), ("u", "q"), ("u", "r"), ("v", "p"), ("v", "q")] * 8
    data = pd.DataFrame(cells, columns=["a", "b"]).assign(y=np.arange(40) % 7)
    model = mlm.glm("y ~ a * b", data, "poisson")
    assert model.labels.dropped == ("av:br",)
    ax = model.plot_effects("b", blank(), by="a", data=False)
    u, v = (line.get_ydata() for line in ax.get_lines())
    means = data.groupby(["a", "b"])["y"].mean()
    np.testing.assert_allclose(u, means["u"], rtol=1e-4)
    np.testing.assert_allclose(v, [*means["v"], np.nan], rtol=1e-4)
    assert len(model.plot_effects("b", blank(), by="a", level=None, data=False).get_lines()) == 2


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(mlm.MissingPackageError, match=r'install "matplotlib>=3.9"') as caught:
        fitted.recorded("cbpp_logit").plot_ranef()
    assert isinstance(caught.value, ImportError)


def test_the_package_is_imported_without_matplotlib():
    code = "import sys, mixedlm_jax as m; m.plot_ranef; print('matplotlib' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
