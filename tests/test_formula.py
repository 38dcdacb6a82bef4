"""The formula language: what it reads, what it refuses, and where its messages point."""

from __future__ import annotations

import pickle

import pytest

from mixedlm_jax.errors import ArgumentError, FormulaError
from mixedlm_jax.expression import CALLS, STRUCTURE_WORDS, parse_expression
from mixedlm_jax.formula import Formula, parse, parse_re_form
from mixedlm_jax.variables import ELEMENTWISE, STATEFUL


def random_terms(formula: Formula) -> list[str]:
    return [str(term) for term in formula.random]


@pytest.mark.parametrize(
    ("bar", "expected"),
    [
        ("(1 | g)", ["(1 | g)"]),
        ("(x | g)", ["(1 + x | g)"]),
        ("(1 + x | g)", ["(1 + x | g)"]),
        ("(0 + x | g)", ["(0 + x | g)"]),
        ("(-1 + x | g)", ["(0 + x | g)"]),
        ("(x - 1 | g)", ["(0 + x | g)"]),
        ("(x || g)", ["(1 | g)", "(0 + x | g)"]),
        ("(0 + x || g)", ["(0 + x | g)"]),
        ("(x * z || g)", ["(1 | g)", "(0 + x | g)", "(0 + z | g)", "(0 + x:z | g)"]),
        ("(1 | a/b)", ["(1 | b:a)", "(1 | a)"]),
        ("(1 | a/b/c)", ["(1 | c:b:a)", "(1 | b:a)", "(1 | a)"]),
        ("(x || a/b)", ["(1 | b:a)", "(0 + x | b:a)", "(1 | a)", "(0 + x | a)"]),
        ("(1 | a:b)", ["(1 | a:b)"]),
        ("(1 | `my group`)", ["(1 | my group)"]),
        ("(1 | factor(g))", ["(1 | factor(g))"]),
    ],
)
def test_random_terms_are_written_out(bar: str, expected: list[str]) -> None:
    assert random_terms(parse(f"y ~ x + {bar}")) == expected


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ("1", "1"),
        ("0", "0"),
        ("x - 1", "0 + x"),
        ("x - 1 + 1", "1 + x"),
        ("x - 0", "1 + x"),
        ("(0 + a + b) * c", "0 + a + b + c + a:c + b:c"),
        ("x - (1 - a)", "0 + x"),
        ("x - (a + b)", "1 + x"),
        ("a + (b - a)", "1 + a + b"),
        ("x + (1 + a) * b", "1 + x + a + b + a:b"),
        ("(1 + a):b", "1 + a:b"),
        ("-1 + x", "0 + x"),
        ("a * b", "1 + a + b + a:b"),
        ("a * b - a", "1 + b + a:b"),
        ("a / b", "1 + a + a:b"),
        ("(a + b) / c", "1 + a + b + a:b:c"),
        ("a %in% b", "1 + a:b"),
        ("(a + b + c)^2", "1 + a + b + c + a:b + a:c + b:c"),
        ("(a + b)**2", "1 + a + b + a:b"),
        ("(a + b + c)^3 - a:b:c", "1 + a + b + c + a:b + a:c + b:c"),
        ("z:x + x", "1 + x + z:x"),
        ("x + z:x", "1 + x + x:z"),
        ("a + (b + c) - (a + b)", "1 + c"),
        ("I(age^2) + I( x*2 )", "1 + I(age^2) + I(x * 2)"),
        ("a:a + b:a + a:b", "1 + a + a:b"),
        ("(x > 0) * f", "1 + x > 0 + f + x > 0:f"),
        ("log(x + 1) + poly(x,2)", "1 + log(x + 1) + poly(x, 2)"),
    ],
)
def test_fixed_terms_mean_what_they_mean_in_R(right: str, expected: str) -> None:
    assert str(parse(f"y ~ {right} + (1 | g)").fixed) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I(-(x+1)^2)", "I(-(x + 1)^2)"),
        ("I((x+1)*2)", "I((x + 1) * 2)"),
        ("x-z-1", "x - z - 1"),
        ("x-(z-1)", "x - (z - 1)"),
        ("x/(z*2)", "x/(z * 2)"),
        ("a^b^c", "a^b^c"),
        ("(a^b)^c", "(a^b)^c"),
        ("I(x+1e5)", "I(x + 1e+05)"),
        ("x*0.50", "x * 0.5"),
        ("poly( x,degree=2,raw=True)", "poly(x, degree = 2, raw = TRUE)"),
        ("bs(x, knots=[-1,2.5])", "bs(x, knots = c(-1, 2.5))"),
        ("C(f, levels=c('b','a'))", 'C(f, levels = c("b", "a"))'),
        ("`my col`:f", "`my col`:f"),
        ("Sepal.Length", "Sepal.Length"),
        ("größe", "größe"),
        ("x=='a'", 'x == "a"'),
    ],
)
def test_expressions_print_as_R_deparses_them(text: str, expected: str) -> None:
    tree = parse_expression(text)
    assert str(tree) == expected
    assert parse_expression(str(tree)) == tree


def test_response_and_offsets() -> None:
    formula = parse(" cbind(a, n - a) ~ x + offset(log(t)) + offset(u) + (1 | g) ")
    assert formula.left == "cbind(a, n - a)"
    assert str(formula.response) == "cbind(a, n - a)"
    assert [str(offset) for offset in formula.offsets] == ["log(t)", "u"]
    assert str(formula.fixed) == "1 + x"
    assert str(formula) == "cbind(a, n - a) ~ x + offset(log(t)) + offset(u) + (1 | g)"


def test_a_thousand_summands() -> None:
    names = [f"x{i}" for i in range(2000)]
    formula = parse(f"y ~ {' + '.join(names)} + (1 | g)")
    assert [str(v) for (v,) in formula.fixed.terms] == names


def test_a_formula_is_a_value() -> None:
    formula = parse("y ~ x + (1 | g)")
    assert formula == parse("y ~ x + (1 | g)")
    assert hash(formula) == hash(pickle.loads(pickle.dumps(formula)))


def test_every_listed_function_has_an_implementation() -> None:
    elsewhere = {"C", "I", "as.factor", "cbind", "factor", "offset"}
    assert set(CALLS) == set(ELEMENTWISE) | set(STATEFUL) | set(STRUCTURE_WORDS) | elsewhere


@pytest.mark.parametrize(
    "term",
    [
        "__import__('os').system('true')",
        "().__class__.__bases__",
        "x.__class__",
        "(x).real",
        "open('secret')",
        "eval('1')",
        "x.mean()",
        "np.log(x)",
        "log(x).real",
        "x[0]",
        "[x for x in y]",
        "{x}",
        "lambda: 1",
        "(lambda: 1)()",
        "log(x)(z)",
        "poly(x, open('f'))",
        "poly(x, degree=z)",
        "log(x, out=z)",
        "f'{x}'",
        "x := 1",
        "x; y",
        "x if y else z",
        "getattr(x, 'values')",
        "I(__import__('os'))",
        "C(f, contr.sum(x))",
        "bs(x, knots=z)",
        "@x",
        "x\\y",
    ],
)
@pytest.mark.parametrize("place", ["y ~ {} + (1 | g)", "{} ~ x + (1 | g)", "y ~ ({} | g)"])
def test_formulas_cannot_reach_python(term: str, place: str) -> None:
    with pytest.raises(FormulaError):
        parse(place.format(term))


@pytest.mark.parametrize(
    ("text", "message", "marked"),
    [
        ("y ~ x + + * z + (1 | g)", "'*' does not fit here", "* z"),
        ("y ~ x + (1 | g", r"expected '\)' here", ""),
        ("y ~ x + (1 | g))", r"'\)' does not fit here", ")"),
        ("y ~ x $ z + (1 | g)", "'\\$' has no meaning", "$ z"),
        ("y ~ . + (1 | g)", "write out the columns", ". +"),
        ("y ~ x + 'a", "is never closed", "'a"),
        ("y ~ foo(x) + (1 | g)", "'foo' is not a function", "foo"),
        ("y ~ lgo(x) + (1 | g)", "did you mean 'log'", "lgo"),
        ("y ~ log(x, 2) + (1 | g)", r"log\(\) takes no further arguments", "2)"),
        ("y ~ bs(x, dff=3) + (1 | g)", r"bs\(\) takes df, knots", "dff"),
        ("y ~ 2 + (1 | g)", "the number 2 is no term", "2 +"),
        ("y ~ 'a' + (1 | g)", "names no column", "'a'"),
        ("y ~ x:1 + (1 | g)", "1 cannot be part of", "1 +"),
        ("y ~ x^z + (1 | g)", "terms can be raised to 1, 2, 3", "z +"),
        ("y ~ log(a:b) + (1 | g)", "':' has no meaning inside", ":b"),
        ("y ~ x + 1 | g", "in parentheses", "| g"),
        ("y ~ x * (1 | g)", "must stand alone", "| g"),
        ("y ~ x + (z + (1 | g))", "must stand alone", "| g"),
        ("y ~ x - (1 | g)", "cannot be subtracted", "| g"),
        ("y ~ (1 | a + b)", r"write \(1 \| a\) \+ \(1 \| b\)", "+ b"),
        ("y ~ (1 | a * b)", r"write \(1 \| a\) \+ \(1 \| b\) \+ \(1 \| a:b\)", "* b"),
        ("y ~ (1 | 2)", "must be a column", "2)"),
        ("y ~ (0 | g)", "no effect left", "| g"),
        ("y ~ (1 | g) + (x | g)", "'intercept' varies by 'g' twice", "| g)"),
        ("y ~ x:offset(z) + (1 | g)", "must stand alone", "offset"),
        ("y ~ cbind(a, b) + (1 | g)", "left of '~'", "cbind"),
        ("y ~ (offset(x) | g)", "outside the parentheses", "offset"),
        ("~ x + (1 | g)", "the response is missing", "~ x"),
        ("1 ~ x + (1 | g)", "names no column", "1 ~"),
        ("__x__ ~ x + (1 | g)", "quoted in backquotes", "__x__"),
    ],
)
def test_messages_point_at_the_place(text: str, message: str, marked: str) -> None:
    with pytest.raises(FormulaError, match=message) as caught:
        parse(text)
    _, shown, caret = str(caught.value).split("\n")
    assert shown.strip() == text.strip()
    assert shown[caret.index("^") :].startswith(marked)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the formula is empty"),
        ("   ", "the formula is empty"),
        ("y", "has no '~'"),
        ("y ~ x", "has no random term"),
        ("y ~ x + g", "has no random term"),
        ("y ~ " + "(" * 200 + "x" + ")" * 200 + " + (1 | g)", "nested too deeply"),
    ],
)
def test_incomplete_formulas(text: str, message: str) -> None:
    with pytest.raises(FormulaError, match=message):
        parse(text)


def test_a_formula_must_be_a_string() -> None:
    with pytest.raises(FormulaError, match="found int"):
        parse(1)  # type: ignore[arg-type]


def test_re_form() -> None:
    assert parse_re_form(None) is None
    assert parse_re_form("~0") == ()
    assert parse_re_form(" ~ 0 ") == ()
    assert parse_re_form("NA") == ()
    wanted = parse_re_form("~(1 | a/b) + (x | c)")
    assert wanted is not None
    assert [str(term) for term in wanted] == ["(1 | b:a)", "(1 | a)", "(1 + x | c)"]


@pytest.mark.parametrize("text", ["~x", "~1", "y ~ (1 | g)", "g", "~offset(x) + (1 | g)", 0])
def test_re_form_refuses_the_rest(text: str) -> None:
    with pytest.raises(ArgumentError, match="re_form must be"):
        parse_re_form(text)
