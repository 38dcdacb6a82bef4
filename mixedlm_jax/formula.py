"""Formula text to a frozen `Formula`: response, fixed terms, random terms, offsets.

Formulas mean what they mean in R and lme4: `*`, `:`, `/`, `^`, `%in%` and `-` are the algebra of
model terms, `(x | g)` is a random term, `(x || g)` drops its correlations, `a/b` nests. A word
before the parentheses names a covariance structure, as in glmmTMB: `cs(x | g)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import NoReturn

from mixedlm_jax.errors import ArgumentError, FormulaError
from mixedlm_jax.expression import (
    STRUCTURE_WORDS,
    Call,
    Expression,
    Name,
    Number,
    Operation,
    columns,
    fail,
    parse_expression,
    walk,
)

Product = tuple[Expression, ...]
"""Variables that are multiplied: `(a, b)` stands for `a:b`, `()` for the intercept."""


@dataclass(frozen=True)
class Terms:
    """Expanded model terms, in R's order: by number of variables, ties as written.

    Attributes
    ----------
    intercept
        Whether there is an intercept.
    terms
        The other terms, each a tuple of variables in the order the formula first names them.
    """

    intercept: bool
    terms: tuple[Product, ...]

    def parts(self) -> tuple[Product, ...]:
        """All terms, the intercept first as `()`."""
        return ((),) * self.intercept + self.terms

    def columns(self) -> Iterator[str]:
        for term in self.terms:
            for variable in term:
                yield from columns(variable)

    def __str__(self) -> str:
        names = [":".join(str(v) for v in term) for term in self.terms]
        return " + ".join([str(int(self.intercept)), *names])


@dataclass(frozen=True)
class RandomTerm:
    """`(effects | group)` with `group` the variables whose combinations are its levels."""

    effects: Terms
    group: Product
    structure: str = "us"
    split: bool = False
    """Whether it is one of the uncorrelated parts of an `(x || g)`."""

    @property
    def name(self) -> str:
        """The grouping factor's name, as lme4 prints it: `herd`, `b:a`."""
        if len(self.group) == 1 and isinstance(self.group[0], Name):
            return self.group[0].name
        return ":".join(str(variable) for variable in self.group)

    def columns(self) -> Iterator[str]:
        yield from self.effects.columns()
        for variable in self.group:
            yield from columns(variable)

    def __str__(self) -> str:
        word = "" if self.structure == "us" else self.structure
        return f"{word}({self.effects} | {self.name})"

    def without(self, part: Product) -> RandomTerm | None:
        """The term without one of its effects, `()` the intercept; None where nothing is left."""
        kept = tuple(term for term in self.effects.terms if set(term) != set(part))
        effects = Terms(self.effects.intercept and part != (), kept)
        return replace(self, effects=effects) if effects.parts() else None


@dataclass(frozen=True)
class Formula:
    """A formula, read and expanded.

    Attributes
    ----------
    text
        As written.
    left
        The left-hand side as written.
    response
        The left-hand side as a tree: `y`, an expression, `successes / trials` or
        `cbind(successes, failures)`.
    fixed
        The fixed effects.
    random
        The random terms in formula order, `||` and `a/b` written out.
    offsets
        What stood inside `offset(...)`; they add up.
    parts
        Fixed effects of other parameters of the distribution, by the name of the part: "zi" the
        probability of a structural zero, "disp" the dispersion.
    """

    text: str
    left: str
    response: Expression
    fixed: Terms
    random: tuple[RandomTerm, ...]
    offsets: tuple[Expression, ...]
    parts: tuple[tuple[str, Terms], ...] = ()

    def with_terms(
        self, *, fixed: Terms | None = None, random: tuple[RandomTerm, ...] | None = None
    ) -> Formula:
        """The formula with other fixed effects or random terms, written out; None leaves them."""
        fixed = self.fixed if fixed is None else fixed
        random = self.random if random is None else random
        offsets = [f"offset({node})" for node in self.offsets]
        text = " + ".join([str(fixed), *map(str, random), *offsets])
        return replace(self, text=f"{self.left} ~ {text}", fixed=fixed, random=random)

    def sides(self) -> Iterator[Terms]:
        """All sums of terms: the fixed effects, each random term's, each part's."""
        yield self.fixed
        yield from (term.effects for term in self.random)
        yield from (terms for _, terms in self.parts)

    def __str__(self) -> str:
        return self.text


def parse(text: str, *, mixed: bool = True) -> Formula:
    """Read a formula such as `"y ~ x + (1 + x | g)"`; not `mixed`, one such as `"y ~ x"`.

    Raises
    ------
    FormulaError
        For text outside the language, a formula without a response, an effect that a group has
        twice, and a random term too few or too many. The message shows the place.
    """
    if not isinstance(text, str):
        raise FormulaError(
            f"a formula is a string such as 'y ~ x + (1 | g)', found {type(text).__name__}"
        )
    tree = parse_expression(text)
    reader = Reader(text)
    response, right = reader.sides(tree)
    summands, bars, offsets = reader.right_side(right)
    fixed = reader.terms(summands)
    if mixed and not bars:
        raise FormulaError(
            f"'{text}' has no random term: add one such as (1 | group), "
            "or fit a model without random effects by mlm.glm"
        )
    if bars and not mixed:
        raise FormulaError(f"'{text}' has a random term, and glm has none: fit it by mlm.glmer")
    left = text[: tree.position].strip()
    return Formula(text.strip(), left, response, fixed, reader.random(bars), offsets)


def parse_part(text: str | None, argument: str) -> Terms | None:
    """The fixed effects of a one-sided formula such as `"~ x"`; None for None and `"~ 0"`.

    argument: what the formula was given as, for messages.

    Raises
    ------
    FormulaError
        For anything else, random terms and offsets among it.
    """
    if text is None:
        return None
    if isinstance(text, str):
        tree = parse_expression(text)
        reader = Reader(text)
        if isinstance(tree, Operation) and tree.operator == "~" and len(tree.operands) == 1:
            summands, bars, offsets = reader.right_side(tree.operands[0])
            if not bars and not offsets:
                terms = reader.terms(summands)
                return terms if terms.parts() else None
    raise FormulaError(
        f"{argument} is {text!r}; give a one-sided formula of fixed effects such as '~ 1' or '~ x'"
    )


def parse_re_form(text: str | None) -> tuple[RandomTerm, ...] | None:
    """The random terms that a prediction conditions on: `None` all, `"~0"` and `"NA"` none.

    Raises
    ------
    ArgumentError
        For anything but None, "~0", "NA" and a one-sided formula of random terms.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise ArgumentError(
            f"re_form must be None, '~0', 'NA' or a formula such as '~(1 | g)', found {text!r}"
        )
    if text.strip() == "NA":
        return ()
    tree = parse_expression(text)
    reader = Reader(text)
    if isinstance(tree, Operation) and tree.operator == "~" and len(tree.operands) == 1:
        fixed, bars, offsets = reader.right_side(tree.operands[0])
        if not offsets and all(node == Number(0.0) for _, node in fixed):
            return reader.random(bars)
    raise ArgumentError(
        f"re_form must be None, '~0', 'NA' or a formula of random terms such as '~(1 | g)', "
        f"found {text!r}"
    )


Signed = tuple[bool, Expression]
Bar = tuple[str, Operation]
"""A random term's covariance structure and its `effects | group`."""
_ARITHMETIC = {"+", "-", "*", "/", "^", "<", ">", "<=", ">=", "==", "!="}
_MISPLACED = {
    "cbind": "cbind(successes, failures) is a response: put it left of '~'",
    "offset": "offset(...) must stand alone as a summand right of '~'",
    **{
        word: f"{word}(...) is the covariance structure of a random term: {word}(x | g)"
        for word in STRUCTURE_WORDS
    },
}
_COMPARISON = {"<", ">", "<=", ">=", "==", "!="}


class Reader:
    """Turns the trees of one text into terms, keeping the text for error messages."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.seen: dict[Expression, int] = {}
        """Variables in the order the side being read first names them."""
        self.intercept = True
        """Whether the side being read has an intercept, so far."""
        self.algebra: dict[str, Callable[[list[Product], list[Product]], Iterable[Product]]] = {
            "*": lambda a, b: a + b + _interactions(a, b),
            ":": _interactions,
            "%in%": _interactions,
            "/": lambda a, b: a + _interactions([_merge(*a)], b),
        }

    def fail(self, node: Expression, message: str) -> NoReturn:
        fail(self.text, node.position, message)

    def sides(self, tree: Expression) -> tuple[Expression, Expression]:
        if not isinstance(tree, Operation) or tree.operator != "~":
            raise FormulaError(
                f"'{self.text}' has no '~': write response ~ predictors + (1 | group)"
            )
        if len(tree.operands) == 1:
            self.fail(tree, "the response is missing: write it to the left of '~'")
        response, right = tree.operands
        inner = response.operands if _is_call(response, "cbind") else (response,)
        for part in inner:
            self.check_value(part)
        return response, right

    def right_side(
        self, node: Expression
    ) -> tuple[list[Signed], list[Bar], tuple[Expression, ...]]:
        """The signed summands that are fixed terms, the random terms, and the offsets."""
        fixed: list[Signed] = []
        bars: list[Bar] = []
        offsets: list[Expression] = []
        for positive, summand in split_sum(node):
            bar = as_bar(summand)
            if bar is not None:
                structure, inner = bar
                if summand is inner and not inner.enclosed:
                    self.fail(summand, "write a random term in parentheses: (1 | g)")
                if not positive:
                    self.fail(summand, "a random term cannot be subtracted: leave it out instead")
                if structure != "us" and inner.operator == "||":
                    self.fail(inner, f"'||' and {structure}(...) both drop correlations: write |")
                bars.append(bar)
            elif isinstance(summand, Call) and summand.function == "offset":
                if not positive:
                    self.fail(summand, "an offset cannot be subtracted: write offset(-x)")
                self.check_value(summand.operands[0])
                offsets.append(summand.operands[0])
            else:
                fixed.append((positive, summand))
        return fixed, bars, tuple(offsets)

    def terms(self, summands: Iterable[Signed]) -> Terms:
        """Add and subtract the summands, starting from an intercept as R does."""
        self.seen, self.intercept = {}, True
        found = sorted(self.add_up(summands, adding=True), key=len)
        return Terms(
            self.intercept, tuple(tuple(sorted(term, key=self.seen.__getitem__)) for term in found)
        )

    def add_up(self, summands: Iterable[Signed], adding: bool) -> list[Product]:
        """The distinct terms of a sum, which itself is added or taken away."""
        found: dict[Product, None] = {}
        for positive, node in summands:
            for term in self.expand(node, adding == positive):
                if positive:
                    found[term] = None
                else:
                    found.pop(term, None)
        return list(found)

    def expand(self, node: Expression, adding: bool) -> list[Product]:
        """The terms one node stands for; within a term, variables in canonical order.

        Numbers stand for none: 1 switches the intercept on and 0 off, or the reverse after a minus.
        """
        if isinstance(node, Number):
            if node.value not in (0, 1):
                self.fail(
                    node, f"the number {node} is no term: use 1 or 0, or I(...) for arithmetic"
                )
            self.intercept = (node.value == 1) == adding
            return []
        if isinstance(node, Operation) and node.operator not in _COMPARISON:
            return self.expand_operation(node, adding)
        self.check_value(node)
        self.seen.setdefault(node, len(self.seen))
        return [(node,)]

    def expand_operation(self, node: Operation, adding: bool) -> list[Product]:
        if node.operator in ("+", "-"):
            return self.add_up(split_sum(node), adding)
        if node.operator == "^":
            return self.expand_power(node, adding)
        if node.operator in ("|", "||"):
            self.fail(node, "a random term must stand alone as a summand: ... + (1 | g)")
        if node.operator not in self.algebra:
            self.fail(node, f"'{node.operator}' has no meaning between terms")
        for operand in node.operands:
            if isinstance(operand, Number):
                self.fail(operand, f"the number {operand} cannot be part of an interaction")
        left, right = (self.expand(operand, adding) for operand in node.operands)
        return _unique(self.algebra[node.operator](left, right))

    def expand_power(self, node: Operation, adding: bool) -> list[Product]:
        base, power = node.operands
        degree = power.value if isinstance(power, Number) else 0.0
        if degree < 1 or not degree.is_integer():
            self.fail(power, "terms can be raised to 1, 2, 3, ...; arithmetic belongs into I(...)")
        terms = result = self.expand(base, adding)
        for _ in range(min(int(degree), len(terms)) - 1):
            result = _unique(result + _interactions(result, terms))
        return result

    def check_value(self, node: Expression) -> None:
        """A variable is arithmetic on columns, whatever calls it is nested in."""
        for part in walk(node):
            if isinstance(part, Operation) and part.operator not in _ARITHMETIC:
                self.fail(part, f"'{part.operator}' has no meaning inside an expression")
            if isinstance(part, Call) and part.function in _MISPLACED:
                self.fail(part, _MISPLACED[part.function])
        if not any(columns(node)):
            self.fail(node, f"'{node}' names no column of the data")

    def random(self, bars: list[Bar]) -> tuple[RandomTerm, ...]:
        """Every bar written out: `||` into uncorrelated parts, `a/b` into `b:a` and `a`."""
        found: list[RandomTerm] = []
        taken: set[tuple[frozenset[Expression], frozenset[Expression]]] = set()
        for structure, bar in bars:
            for term in self.random_terms(structure, bar):
                for part in term.effects.parts():
                    key = frozenset(term.group), frozenset(part)
                    if key in taken:
                        label = ":".join(str(v) for v in part) or "intercept"
                        self.fail(
                            bar,
                            f"the effect '{label}' varies by '{term.name}' twice: keep it in one "
                            "term, for example (1 | g) + (0 + x | g)",
                        )
                    taken.add(key)
                found.append(term)
        return tuple(found)

    def random_terms(self, structure: str, bar: Operation) -> Iterator[RandomTerm]:
        left, right = bar.operands
        summands = split_sum(left)
        for _, node in summands:
            if _is_call(node, "offset"):
                self.fail(node, "an offset cannot vary by group: put it outside the parentheses")
        effects = self.terms(summands)
        if not effects.parts():
            self.fail(bar, "this random term has no effect left: write (1 | g) or (0 + x | g)")
        one_variable = len(effects.terms) == 1 and len(effects.terms[0]) == 1
        if structure == "ar1" and (effects.intercept or not one_variable):
            self.fail(bar, "ar1 needs one factor of times and no intercept: ar1(0 + time | g)")
        for group in self.groups(right):
            if bar.operator == "|":
                yield RandomTerm(effects, group, structure)
                continue
            if effects.intercept:
                yield RandomTerm(Terms(True, ()), group, split=True)
            for term in effects.terms:
                yield RandomTerm(Terms(False, (term,)), group, split=True)

    def groups(self, node: Expression) -> list[Product]:
        """The grouping factors right of a bar, the innermost first."""
        if isinstance(node, Operation):
            if node.operator == ":":
                left, right = (self.single_group(operand) for operand in node.operands)
                return [left + right]
            if node.operator == "/":
                outer, inner = self.groups(node.operands[0]), self.single_group(node.operands[1])
                return [inner + outer[0], *outer]
            hints = {"+": "(1 | a) + (1 | b)", "*": "(1 | a) + (1 | b) + (1 | a:b)"}
            hint = hints.get(node.operator, "(1 | g), (1 | a:b) or (1 | a/b)")
            self.fail(node, f"'{node.operator}' cannot combine grouping factors: write {hint}")
        if isinstance(node, Number):
            self.fail(node, "a grouping factor must be a column, not a number")
        self.check_value(node)
        return [(node,)]

    def single_group(self, node: Expression) -> Product:
        groups = self.groups(node)
        if len(groups) > 1:
            self.fail(node, "write nesting without parentheses: (1 | a/b/c)")
        return groups[0]


def as_bar(node: Expression) -> Bar | None:
    """Covariance structure and bar of a random term, None for anything else."""
    structure = "us"
    if isinstance(node, Call) and node.function in STRUCTURE_WORDS:
        structure, node = node.function, node.operands[0]
    if isinstance(node, Operation) and node.operator in ("|", "||"):
        return structure, node
    return None


def split_sum(node: Expression) -> list[Signed]:
    """The operands of a chain of + and - from left to right; True marks what is added.

    Iterative, because a formula may have a thousand summands. A sum in parentheses is one of them.
    """
    found: list[Signed] = []
    while isinstance(node, Operation) and node.operator in ("+", "-"):
        found.append((node.operator == "+", node.operands[-1]))
        if len(node.operands) == 1:
            return found[::-1]
        node = node.operands[0]
    return [(True, node), *found[::-1]]


def _is_call(node: Expression, function: str) -> bool:
    return isinstance(node, Call) and node.function == function


def _merge(*terms: Product) -> Product:
    """One term with all variables, in an order that makes equal sets equal tuples."""
    variables = {variable for term in terms for variable in term}
    return tuple(sorted(variables, key=str))


def _interactions(left: list[Product], right: list[Product]) -> list[Product]:
    return [_merge(a, b) for a, b in product(left, right)]


def _unique(terms: Iterable[Product]) -> list[Product]:
    return list(dict.fromkeys(terms))
