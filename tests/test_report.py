"""What is printed, held against what R and lme4 print."""

from __future__ import annotations

import fitted
import numpy as np
import pandas as pd
import pytest
import records

import mixedlm_jax as mlm
from mixedlm_jax.formatting import (
    abbreviate,
    align,
    format_alike,
    format_estimates,
    format_p_values,
    stars,
)
from mixedlm_jax.report import Component, VarCorr

# Printed by lme4 1.1-31 in R 4.2.2 (options(useFancyQuotes=FALSE), trailing blanks cut), the fit
# with tolPwrss=1e-13 and bobyqa restarted at its optimum: summary(glmer(cbind(incidence, size -
# incidence) ~ period + (1 | herd), cbpp, binomial)).
CBPP_SUMMARY = """\
 Family: binomial  ( logit )
---
Scaled residuals:
    Min      1Q  Median      3Q     Max
-2.3818 -0.7888 -0.2024  0.5146  2.8796
---
Random effects:
 Groups Name        Variance Std.Dev.
 herd   (Intercept) 0.4125   0.6423
Number of obs: 56, groups:  herd, 15
---
Fixed effects:
            Estimate Std. Error z value Pr(>|z|)
(Intercept)  -1.3985     0.2325  -6.016 1.79e-09 ***
period2      -0.9923     0.3066  -3.236 0.001212 **
period3      -1.1287     0.3266  -3.455 0.000549 ***
period4      -1.5803     0.4274  -3.697 0.000218 ***
---
Correlation of Fixed Effects:
        (Intr) perid2 perid3
period2 -0.364
period3 -0.340  0.278
period4 -0.261  0.212  0.196
"""

# The same for print(m): criteria, random effects without variances, fixed effects in a row.
CBPP_PRINTED = """\
194.0526 204.1793 -92.0263
---
Random effects:
 Groups Name        Std.Dev.
 herd   (Intercept) 0.6423
Number of obs: 56, groups:  herd, 15
Fixed Effects:
(Intercept)      period2      period3      period4
    -1.3985      -0.9923      -1.1287      -1.5803
"""

# summary and VarCorr of lmer(Reaction ~ Days + (Days | Subject), sleepstudy, REML = FALSE). lmer
# stops at a relative 1e-4 of the variances (23.7798 where the optimum is 23.7806): rows of numbers
# that this touches are left out.
SLEEPSTUDY_SUMMARY = """\
Random effects:
 Groups   Name        Variance Std.Dev. Corr
---
Number of obs: 180, groups:  Subject, 18
---
            Estimate Std. Error z value
---
(Intercept)  251.405      6.632
---
Days          10.467      1.502   6.968
---
Correlation of Fixed Effects:
     (Intr)
Days -0.138
"""


def squeeze(text: str) -> str:
    """Text whose runs of blanks count as one, so that only words and numbers are compared."""
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


@pytest.fixture(scope="module")
def cbpp():
    return fitted.recorded("cbpp_logit")


def test_summary_is_that_of_lme4(cbpp):
    text = squeeze(str(cbpp.summary()))
    for section in CBPP_SUMMARY.split("---\n"):
        assert squeeze(section) in text


def test_printed_model_is_that_of_lme4(cbpp):
    text = squeeze(str(cbpp))
    for section in CBPP_PRINTED.split("---\n"):
        assert squeeze(section) in text


def test_summary_of_a_slope(capsys):
    text = squeeze(str(fitted.recorded("sleepstudy_slope").summary()))
    for section in SLEEPSTUDY_SUMMARY.split("---\n"):
        assert squeeze(section) in text
    assert capsys.readouterr().out == ""


def test_columns_stand_under_their_names(cbpp):
    lines = str(cbpp.summary()).splitlines()
    start = lines.index("Fixed effects:")
    header, rows = lines[start + 1], lines[start + 2 : start + 6]
    for name in ("Estimate", "Std. Error", "z value", "Pr(>|z|)"):
        end = header.index(name) + len(name)
        assert all(row[end - 1].isdigit() and row[end] == " " for row in rows)
    assert max(map(len, lines)) <= 80


def test_header_names_method_and_family(cbpp):
    head = str(cbpp.summary()).splitlines()
    assert head[:3] == [
        "Generalized linear mixed model fit by maximum likelihood (Laplace Approximation)",
        " Family: binomial  ( logit )",
        "Formula: incidence / size ~ period + (1 | herd)",
    ]


def test_criteria_and_distance_from_the_optimum(cbpp):
    text = str(cbpp.summary())
    assert "AIC      BIC   logLik -2*log(L) df.resid\n" in text
    assert "194.0526 204.1793 -92.0263  184.0526       51\n" in text
    assert text.splitlines()[-1].startswith("converged: ")
    assert text.splitlines()[-1].endswith(" log-likelihood units from the optimum")


def test_no_quadrature_says_what_its_standard_errors_are():
    text = str(fitted.recorded("cbpp_logit_agq0").summary())
    assert "(Adaptive Gauss-Hermite Quadrature, nAGQ = 0)" in text
    assert "Standard errors of the fixed effects are conditional on theta" in text
    # the same lme4 as above, nAGQ = 0
    assert squeeze("(Intercept)  -1.3605     0.2276  -5.978 2.26e-09 ***") in squeeze(text)


def test_weights_are_named_with_their_type():
    lines = str(fitted.recorded("salamanders_weights").summary()).splitlines()
    assert "Weights: n (prior)" in lines
    assert not [line for line in str(fitted.recorded("cbpp_logit")).splitlines() if "Wei" in line]


def test_crossed_groups_and_dropped_columns_are_named():
    data = records.frame(records.MODELS["cbpp_logit"])
    data["again"] = (data["period"] == "2") * 2.0
    model = mlm.glmer("incidence / size ~ period + again + (1 | herd)", data, "binomial")
    text = str(model.summary())
    assert "rank deficient: dropped 1 column, again." in text
    nested = fitted.recorded("grouseticks_nested").summary()
    assert "groups:  BROOD:LOCATION, 118; LOCATION, 63" in str(nested)


def test_fewer_than_30_levels_are_noted():
    notes = {
        name: str(fitted.recorded(name).summary())
        for name in ("cbpp_logit", "pastes_nested", "contraception_intercept")
    }
    assert "Fewer than 30 levels (herd: 15): z intervals are too short." in notes["cbpp_logit"]
    assert "Fewer than 30 levels (batch: 10): z" in notes["pastes_nested"]  # samples are 30
    assert "z intervals are too short" not in notes["contraception_intercept"]


def test_summary_as_data(cbpp):
    table = cbpp.summary().coefficients
    record = records.MODELS["cbpp_logit"]
    assert list(table.columns) == ["Estimate", "Std. Error", "z value", "Pr(>|z|)"]
    np.testing.assert_allclose(table["Std. Error"], list(record["se"].values()), rtol=1e-5)
    np.testing.assert_allclose(table["z value"], table["Estimate"] / table["Std. Error"])
    assert table.loc["period2", "Pr(>|z|)"] == pytest.approx(0.001212, abs=1e-6)


def test_wide_correlations_are_shown_on_request():
    columns = [f"x{i}" for i in range(12)]
    rng = np.random.default_rng(3)
    data = pd.DataFrame(rng.normal(size=(200, 12)), columns=columns)
    data["g"] = np.repeat(np.arange(20), 10)
    data["y"] = rng.poisson(np.exp(rng.normal(0, 0.7, 20)[data["g"]]))
    model = mlm.glmer(f"y ~ {' + '.join(columns)} + (1 | g)", data, "poisson")
    heading = "Correlation of Fixed Effects:"
    assert heading not in str(model.summary())
    assert "not shown, as p = 13 > 12; ask for it with summary(correlation=True)" in str(
        model.summary()
    )
    assert heading in str(model.summary(correlation=True))


def test_correlations_can_be_left_out(cbpp):
    assert "Correlation" not in str(cbpp.summary(correlation=False))


def test_no_fixed_effects_and_one():
    record = records.MODELS["cbpp_logit"]
    model = mlm.glmer("incidence / size ~ 1 + (1 | herd)", records.frame(record), "binomial")
    assert "Correlation" not in str(model.summary())
    none = mlm.glmer("incidence / size ~ 0 + (1 | herd)", records.frame(record), "binomial")
    assert "No fixed effects" in str(none.summary())
    assert "No fixed effects" in str(none)


def test_reprs_are_short(cbpp):
    assert repr(cbpp) == (
        "<GlmerResult incidence / size ~ period + (1 | herd): binomial ( logit ), 56 obs, "
        "log-likelihood -92.0263>"
    )
    assert repr(cbpp.summary()) == str(cbpp.summary())
    assert repr(cbpp.VarCorr()) == str(cbpp.VarCorr())
    assert repr(mlm.checkConv(cbpp)).startswith("<Convergence ok=True: converged: ")


# lmer(Reaction ~ Days + (Days + d2 | Subject), sleepstudy, REML = FALSE) with d2 = (Days - 4.5)^2:
# as.data.frame(VarCorr(m)), print(VarCorr(m)) and the table of summary(m), lme4 1.1-31.
THREE = np.array(
    [
        [863.4458723, 5.4175281, -23.6984559],
        [5.4175281, 34.3381112, -0.2170488],
        [-23.6984559, -0.2170488, 2.0727308],
    ]
)
THREE_PRINTED = """\
 Groups   Name        Std.Dev. Corr
 Subject  (Intercept) 29.3844
          Days         5.8599   0.031
          d2           1.4397  -0.560 -0.026
 Residual             22.7628"""
THREE_IN_SUMMARY = """\
 Groups   Name        Variance Std.Dev. Corr
 Subject  (Intercept) 863.446  29.38
          Days         34.338   5.86     0.03
          d2            2.073   1.44    -0.56 -0.03
 Residual             518.143  22.76"""


def test_three_effects_are_printed_as_lme4_prints_them():
    found = VarCorr((Component("Subject", ("(Intercept)", "Days", "d2"), THREE),), 22.76276441)
    assert str(found) == THREE_PRINTED
    assert "\n".join(found.lines(4, variances=True)) == THREE_IN_SUMMARY
    table = found.to_dataframe()
    pairs = [tuple(pair) for pair in table[["var1", "var2"]].to_numpy()[3:6]]
    assert pairs == [("(Intercept)", "Days"), ("(Intercept)", "d2"), ("Days", "d2")]
    np.testing.assert_allclose(
        table["sdcor"][2:],
        [1.43969815, 0.03146266, -0.56018444, -0.02572750, 22.76276441],
        rtol=1e-6,
    )


def test_a_correlation_without_variance_is_nan():
    found = VarCorr((Component("g", ("a", "b"), np.diag([1.0, 0.0])),), None)
    assert "NaN" in str(found)


@pytest.mark.parametrize(
    ("values", "digits", "expected"),
    [  # R 4.2.2: format(values, digits = digits), leading blanks cut
        ([-1.39853, 0.23247, 1e-2], 4, ["-1.3985", "0.2325", "0.0100"]),
        ([123456, 0.5], 4, ["123456.0", "0.5"]),
        ([1e-10, 1], 4, ["1e-10", "1e+00"]),
        ([1e10, 1e-3], 4, ["1e+10", "1e-03"]),
        ([565.4769, 32.68179, 654.9457], 4, ["565.48", "32.68", "654.95"]),
        ([np.nan, 1.5], 3, ["NaN", "1.5"]),
        ([0, 0.00012345], 3, ["0.000000", "0.000123"]),
        ([1e6, 2e6], 4, ["1e+06", "2e+06"]),
        ([-0.0009915, 0.5202], 4, ["-0.0009915", "0.5202000"]),
        ([2, 3], 4, ["2", "3"]),
        ([1e5], 4, ["1e+05"]),
        ([123456], 4, ["123456"]),
        ([1e-5], 4, ["1e-05"]),
        ([-1e-5, 1.0], 3, ["-1e-05", "1e+00"]),
        ([np.inf, -np.inf], 4, ["Inf", "-Inf"]),
        ([], 4, []),
    ],
)
def test_numbers_as_r_formats_them(values, digits, expected):
    assert [text.strip() for text in format_alike(values, digits)] == expected


def test_zero_has_no_sign():
    assert format_alike([-0.0, 1.25], 3) == ["0.00", "1.25"]


def test_p_values_as_r_formats_them():
    # R 4.2.2: format.pval(p, digits = 3), with NaN for R's NA
    p = [1.47e-09, 0.001068, 0.000474, 0.000182, 1e-17, 0.9, np.nan]
    expected = ["1.47e-09", "0.001068", "0.000474", "0.000182", "< 2e-16", "0.900000", "NaN"]
    assert format_p_values(p) == expected


def test_estimates_and_standard_errors_share_their_decimals():
    # R 4.2.2: printCoefmat(..., digits = 4)
    values = np.array([[1, 0.5], [2, 0.234], [3.123456, 0.9], [4e-7, 2e-7]])
    assert format_estimates(values, 4) == [
        ["1.0000000", "0.5000000"],
        ["2.0000000", "0.2340000"],
        ["3.1234560", "0.9000000"],
        ["0.0000004", "0.0000002"],
    ]
    assert format_estimates(np.array([[1.5, np.nan]]), 4) == [["1.5", "NaN"]]


@pytest.mark.parametrize(
    ("names", "length", "expected"),
    [  # R 4.2.2: abbreviate(names, length)
        (["(Intercept)", "period2", "period3"], 6, ["(Intr)", "perid2", "perid3"]),
        (["btypeshout:situself", "GenderM", "I(age^2)"], 6, ["btyps:", "GendrM", "I(g^2)"]),
        (["livch3+", "lbase:trtprogabide", "cHEIGHT"], 6, ["lvch3+", "lbs:tr", "cHEIGH"]),
        (["btypeshout:situself", "I(age^2)"], 11, ["btypsht:sts", "I(age^2)"]),
        (["lbase:trtprogabide", "poly(x, 2)1"], 11, ["lbs:trtprgb", "poly(x, 2)1"]),
    ],
)
def test_names_are_abbreviated_as_r_does(names, length, expected):
    assert abbreviate(names, length) == expected


def test_abbreviations_stay_different():
    names = ["btypescold:situself", "btypeshout:situself", "btypescoff:situself"]
    short = abbreviate(names, 6)
    assert len(set(short)) == 3
    assert max(map(len, short)) < 11


def test_stars():
    p = [0.0005, 0.005, 0.04, 0.09, 0.5, np.nan]
    assert [stars(value).strip() for value in p] == ["***", "**", "*", ".", "", ""]


def test_a_table_is_padded_to_either_side():
    assert align([["a", "bb"], ["ccc", "d"]], [True, False]) == ["a   bb", "ccc  d"]
