"""The imports point one way, and other promises of the layout that a reader relies on."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

import mixedlm_jax
from mixedlm_jax.families import FAMILIES

ROOT = Path(mixedlm_jax.__file__).parent
PACKAGE = "mixedlm_jax"

# Each module imports only from those before it. A module stands as early as what it needs allows
# and beside what it works with: text, then data frames, then the arrays that come of them; numbers
# from one row of a model outwards to a whole fit; then what is made of a fit, and what users call.
SECTIONS: dict[str, tuple[str, ...]] = {
    "words": ("errors", "expression", "formula", "revision"),
    "data frames": (
        "table",
        "variables",
        "response",
        "grouping",
        "matrix",
        "recipe",
        "design",
        "new_response",
        "model_frame",
    ),
    "rows": (
        "arrays",
        "links",
        "families.base",
        "families.loggamma",
        "families.draws",
        "families.binomial",
        "families.poisson",
        "families.gaussian",
        "families.gamma",
        "families.inverse_gaussian",
        "families.negative_binomial",
        "families.beta",
        "families.betabinomial",
        "families.tweedie",
        "families.student_t",
        "families.lognormal",
        "families.truncated",
        "families.zero_inflated",
        "families.custom",
        "families.quasi",
        "families",
        "dispersion",
        "covariance",
        "names",
    ),
    "compiled programs": ("buckets", "store", "compiled", "means"),
    "checks": ("identification",),
    "likelihood": (
        "small",
        "pattern",
        "plan",
        "krylov",
        "corner",
        "unformed",
        "elimination",
        "traces",
        "problem",
        "blocks",
        "priors",
        "modes",
        "likelihood",
        "hessian",
        "quadrature",
        "curvature",
        "objective",
    ),
    "fitting": (
        "optimize",
        "minimisers",
        "progress",
        "control",
        "scoring",
        "start",
        "programs",
        "verdict",
        "climb",
        "rescue",
        "fewer",
        "search",
        "fit",
        "lanes",
        "lane_starts",
        "lane_fits",
        "lane_responses",
        "checkpoint",
        "estimate",
        "posterior",
        "placement",
    ),
    "results": (
        "inference.covariance",
        "inference.wald",
        "inference.chi_squared",
        "inference.components",
        "inference.conditional",
        "inference.expectation",
        "inference.point",
        "inference.laplace_check",
        "inference.charts",
        "inference.profile",
        "inference.sandwich",
        "inference.left_out",
        "inference",
        "threads",
        "uncertainty",
        "expectation",
        "predict",
        "diagnostics",
        "pearson",
        "formatting",
        "adequacy",
        "markup",
        "noted",
        "adjustment",
        "approximation",
        "report",
        "ranef",
        "tidy",
        "getme",
        "canvas",
    ),
    "comparing": (
        "call",
        "fitted",
        "hypotheses",
        "term_tests",
        "comparison",
        "anova",
    ),
    "many fits": (
        "simulate",
        "scenario",
        "fits",
        "many",
        "lane_means",
        "resampling",
        "imputed",
        "bootstrap",
        "power",
        "ratio_test",
        "pooling",
        "variance_tests",
        "parameters",
        "intervals",
        "robust",
        "all_fit",
    ),
    "predicting": ("predictive", "predictions"),
    "averaging": (
        "averages",
        "reference_grid",
        "contrasts",
        "estimated_means",
        "margins",
        "marginaleffects",
    ),
    "judging": ("explained", "collinearity", "simulated_residuals", "influence"),
    "pictures": (
        "plots.modes",
        "plots.residuals",
        "plots.profiles",
        "plots.effects",
        "plots.forest",
        "plots",
    ),
    "face": (
        "summarise",
        "frames",
        "model",
        "modular",
        "api",
        "replicates",
        "checks",
        "functional",
        "datasets",
        "",
    ),
}
ORDER = list(chain(*SECTIONS.values()))
LEFT = [*SECTIONS["words"], *SECTIONS["data frames"]]
ENGINE = list(
    chain(*(SECTIONS[name] for name in ("rows", "compiled programs", "likelihood", "fitting")))
)

# What is imported where it is used: dependencies a user may do without, and those that are slow to
# import and that most runs never need.
OPTIONAL = {
    ("optimize", "nlopt"),
    ("marginaleffects", "marginaleffects.classes.model"),
    ("marginaleffects", "polars"),
}
DEFERRED = {
    ("optimize", "scipy.optimize"),
    ("minimisers", "scipy.optimize"),
    ("minimisers", "optax"),
    ("verdict", "scipy.optimize"),
    ("threads", "scipy.linalg"),
    ("threads", "threadpoolctl"),
    ("", "module"),  # those of its table _LATER
    ("variables", "formulaic.transforms"),
    ("table", "narwhals"),
    ("getme", "scipy.sparse"),
    ("many", "tqdm"),
    ("pooling", "scipy.special"),
    ("canvas", "f'matplotlib.{module}'"),
    ("model", "mixedlm_jax.plots"),
    ("adequacy", "scipy.special"),
    ("functional", "optax"),
    ("inference.chi_squared", "scipy.special"),
    ("adjustment", "scipy.special"),
}
FRAMES = {"pandas", "narwhals", "polars", "formulaic"}
SHAPELESS = {"utils", "util", "helpers", "helper", "common", "misc", "compat", "tools", "mixins"}


def module_name(path: Path) -> str:
    """`families.base`, `families` for its `__init__`, and "" for the package itself."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_name(path): ast.parse(path.read_text("utf-8"), str(path))
    for path in sorted(ROOT.rglob("*.py"))
}


def imported(node: ast.AST) -> Iterator[str]:
    """Full names of what one statement or call imports; `from a import b` gives `a.b`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from ("." * node.level + f"{node.module or ''}.{alias.name}" for alias in node.names)
    elif calls_import(node):
        (name,) = node.args  # type: ignore[attr-defined]
        yield str(name.value) if isinstance(name, ast.Constant) else ast.unparse(name)


def calls_import(node: ast.AST) -> bool:
    """Whether this is `importlib.import_module(...)` or `__import__(...)`."""
    return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
        "import_module",
        "__import__",
    )


def imports(tree: ast.AST) -> set[str]:
    """Everything a module imports, at the top or below."""
    return set(chain.from_iterable(map(imported, ast.walk(tree))))


def own(name: str) -> str | None:
    """The module of this package that an imported name belongs to; None for other packages."""
    first, _, rest = name.partition(".")
    if first != PACKAGE:
        return None
    while rest and rest not in MODULES:
        rest = rest.rpartition(".")[0]
    return rest


def roots(tree: ast.AST) -> set[str]:
    """The packages a module imports from."""
    return {name.partition(".")[0] for name in imports(tree)}


def hidden_imports(tree: ast.AST) -> set[str]:
    """What is imported inside functions, or through importlib or `__import__` anywhere."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            found |= imports(node)
        elif calls_import(node):
            found |= set(imported(node))
    return found


def asks_for_a_family(tree: ast.AST) -> list[str]:
    """Places that decide by a family's class or by its name."""
    classes = {family.__name__ for family in FAMILIES.values()}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            names = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
            names |= {n.attr for n in ast.walk(node.args[1]) if isinstance(n, ast.Attribute)}
            if names & classes:
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Compare):
            constants = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
            if constants & set(FAMILIES):
                found.append(ast.unparse(node))
    return found


def test_every_module_has_its_place():
    assert sorted(ORDER) == sorted(MODULES), "put a new module where its imports allow it"


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_from_earlier_ones(name):
    earlier = set(ORDER[: ORDER.index(name)])
    used = imports(MODULES[name])
    assert not [other for other in used if other.startswith(".")], "imports are absolute"
    ours = {own(other) for other in used} - {None}
    assert ours <= earlier, f"{name} imports {sorted(map(str, ours - earlier))}, which come later"


def test_data_sets_stand_alone():
    (module,) = [name for name in ORDER if name == "datasets"]
    assert {own(other) for other in imports(MODULES[module])} <= {None, "errors"}
    users = [name for name, tree in MODULES.items() if "datasets" in map(own, imports(tree))]
    assert users == [""]


@pytest.mark.parametrize("name", ORDER)
def test_imports_stand_at_the_top(name):
    allowed = {package for module, package in OPTIONAL | DEFERRED if module == name}
    assert hidden_imports(MODULES[name]) == allowed, "import at the top, or list it with a reason"


@pytest.mark.parametrize("name", LEFT)
def test_there_is_no_jax_left_of_the_design(name):
    assert not roots(MODULES[name]) & {"jax", "jaxlib", "optax"}


@pytest.mark.parametrize("name", ENGINE)
def test_there_is_no_data_frame_in_the_engine(name):
    assert not roots(MODULES[name]) & FRAMES


@pytest.mark.parametrize("name", ENGINE)
def test_no_compiled_program_calls_back_to_the_host(name):
    called = {node.attr for node in ast.walk(MODULES[name]) if isinstance(node, ast.Attribute)}
    assert not {word for word in called if word.endswith("callback")}


def test_modules_are_named_for_what_they_hold():
    words = set(chain.from_iterable(name.split(".") for name in MODULES))
    assert not words & SHAPELESS


@pytest.mark.parametrize("name", [name for name in ORDER if not name.startswith("families")])
def test_no_module_asks_which_family_it_has(name):
    assert asks_for_a_family(MODULES[name]) == []


# ----------------------------------------------------------------------------------------------
# These checks can fail


def test_the_search_for_imports_misses_none():
    source = f"""
import os.path, jax.numpy as jnp
from {PACKAGE} import diagnostics
from {PACKAGE}.families.base import Family
from . import sibling
if True:
    from {PACKAGE}.errors import DataError
def f():
    import scipy
    importlib.import_module("nlopt")
    g = lambda: __import__("pickle")
"""
    tree = ast.parse(source)
    assert imports(tree) == {
        "os.path",
        "jax.numpy",
        f"{PACKAGE}.diagnostics",
        f"{PACKAGE}.families.base.Family",
        "..sibling",
        f"{PACKAGE}.errors.DataError",
        "scipy",
        "nlopt",
        "pickle",
    }
    ours = {own(name) for name in imports(tree)}
    assert ours == {None, "diagnostics", "families.base", "errors"}
    assert own(f"{PACKAGE}.glmer") == ""
    assert hidden_imports(tree) == {"scipy", "nlopt", "pickle"}


def test_questions_about_the_family_are_found():
    tree = ast.parse(
        """
a = isinstance(family, families.Binomial)
b = isinstance(family, (Family, Poisson))
c = family.name == "gaussian"
d = family.name in ("poisson", "other")
e = isinstance(family, Family) and link.name == "log"
"""
    )
    assert len(asks_for_a_family(tree)) == 4
