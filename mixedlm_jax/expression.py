"""The small language of formulas: tokens, a parser, and the tree it builds.

The grammar holds names, numbers, strings, R's operators and calls of the functions in `CALLS`, and
nothing else. There is no node for an attribute, a subscript, a lambda or any other call, so a
formula cannot reach Python: what is not a column, a constant or a listed function does not parse.
Trees compare by structure and print as R's `deparse` would print them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol

from mixedlm_jax.errors import FormulaError


@dataclass(frozen=True)
class Signature:
    """What a listed function takes: one expression, then constants by these names."""

    constants: tuple[str, ...] = ()
    expressions: int = 1


STRUCTURE_WORDS = ("us", "diag", "homdiag", "cs", "ar1")
"""What a random term may be called with: `cs(x | g)`, its covariance structure."""

_SPLINE = ("df", "knots", "lower_bound", "upper_bound")
CALLS: dict[str, Signature] = {
    **{
        name: Signature()
        for name in (
            "I", "abs", "as.factor", "center", "cos", "exp", "expm1", "log", "log10", "log1p",
            "log2", "offset", "sin", "sqrt", *STRUCTURE_WORDS,
        )
    },
    "C": Signature(("contrasts", "levels")),
    "factor": Signature(("levels",)),
    "scale": Signature(("center", "scale")),
    "poly": Signature(("degree", "raw")),
    "bs": Signature(
        ("df", "knots", "degree", "include_intercept", "lower_bound", "upper_bound",
         "extrapolation")
    ),
    "cr": Signature((*_SPLINE, "constraints", "extrapolation")),
    "cc": Signature((*_SPLINE, "constraints", "extrapolation")),
    "cbind": Signature(expressions=2),
}  # fmt: skip
"""Every function a formula may call; `cbind` only left of "~", `offset` only right of it, and
covariance structures only around a random term."""

_ATOM = 100
_CONSTANT_NAMES = {"TRUE": True, "FALSE": False, "True": True, "False": False}
_CONTRAST_NAME = re.compile(r"(contr\.)?(treatment|sum|helmert|poly)$")


class Scope(Protocol):
    """What an expression is evaluated in: columns, constants and operations on them."""

    def column(self, name: str) -> Any: ...
    def number(self, value: float) -> Any: ...
    def string(self, value: str) -> Any: ...
    def operate(self, operator: str, operands: tuple[Any, ...]) -> Any: ...
    def call(self, node: Call, operands: tuple[Any, ...]) -> Any: ...


class Expression(Protocol):
    """A node of the tree."""

    @property
    def position(self) -> int: ...
    @property
    def precedence(self) -> int: ...
    @property
    def operands(self) -> tuple[Expression, ...]: ...
    def evaluate(self, scope: Scope) -> Any: ...


@dataclass(frozen=True)
class Name:
    """A column of the data."""

    name: str
    position: int = field(default=0, compare=False)
    precedence = _ATOM
    operands = ()

    def __str__(self) -> str:
        plain = re.fullmatch(r"(?:[^\W\d]|\.(?!\d))[\w.]*", self.name)
        return self.name if plain else f"`{self.name}`"

    def evaluate(self, scope: Scope) -> Any:
        return scope.column(self.name)


@dataclass(frozen=True)
class Number:
    """A numeric constant."""

    value: float
    position: int = field(default=0, compare=False)
    precedence = _ATOM
    operands = ()

    def __str__(self) -> str:
        return _format_number(self.value)

    def evaluate(self, scope: Scope) -> Any:
        return scope.number(self.value)


@dataclass(frozen=True)
class String:
    """A string constant."""

    value: str
    position: int = field(default=0, compare=False)
    precedence = _ATOM
    operands = ()

    def __str__(self) -> str:
        return f'"{self.value}"'

    def evaluate(self, scope: Scope) -> Any:
        return scope.string(self.value)


@dataclass(frozen=True)
class Operation:
    """A prefix or infix operator with its operands; `enclosed` where it stood in parentheses."""

    operator: str
    operands: tuple[Expression, ...]
    position: int = field(default=0, compare=False)
    enclosed: bool = field(default=False, compare=False)

    @property
    def precedence(self) -> int:
        return _PREFIX_PRECEDENCE if len(self.operands) == 1 else _INFIX[self.operator]

    def __str__(self) -> str:
        if len(self.operands) == 1:
            (operand,) = self.operands
            return f"{self.operator}{_within(operand, self.precedence)}"
        left, right = self.operands
        to_the_right = self.operator in _RIGHT_ASSOCIATIVE
        space = "" if self.operator in _TIGHT else " "
        return (
            _within(left, self.precedence + to_the_right)
            + f"{space}{self.operator}{space}"
            + _within(right, self.precedence + (not to_the_right))
        )

    def evaluate(self, scope: Scope) -> Any:
        return scope.operate(self.operator, tuple(o.evaluate(scope) for o in self.operands))


@dataclass(frozen=True)
class Call:
    """A listed function, applied to expressions, with constants as further arguments.

    `constants` is keyed by argument name; `arguments` is what was written, for printing.
    """

    function: str
    operands: tuple[Expression, ...]
    constants: tuple[tuple[str, Any], ...] = ()
    arguments: str = field(default="", compare=False)
    position: int = field(default=0, compare=False)
    precedence = _ATOM

    def __str__(self) -> str:
        return f"{self.function}({self.arguments})"

    def evaluate(self, scope: Scope) -> Any:
        return scope.call(self, tuple(o.evaluate(scope) for o in self.operands))


def walk(node: Expression) -> Iterator[Expression]:
    """The node and everything below it, in the order of the text."""
    yield node
    for operand in node.operands:
        yield from walk(operand)


def columns(node: Expression) -> Iterator[str]:
    """The names of the columns an expression reads."""
    return (part.name for part in walk(node) if isinstance(part, Name))


def parse_expression(text: str, *, dot: bool = False) -> Expression:
    """The tree of a whole formula, or of a part of one.

    dot: read a lone `.` as a name, for formulas that change another one.

    Raises
    ------
    FormulaError
        Where the text leaves the grammar; the message shows the place.
    """
    return _Parser(text, dot).parse()


def fail(text: str, position: int, message: str) -> NoReturn:
    """Raise a FormulaError that shows the text with a caret under `position`."""
    line = text.replace("\n", " ").replace("\t", " ")
    raise FormulaError(f"{message}\n    {line}\n    {' ' * min(position, len(line))}^")


def suggest(word: str, known: Any) -> str:
    """`"; did you mean 'x'?"`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<name>(?:[^\W\d]|\.(?=[^\W\d]))[\w.]*)
      | `(?P<quoted>[^`]+)`
      | "(?P<double>[^"]*)" | '(?P<single>[^']*)'
      | (?P<operator>%in%|\*\*|\|\||<=|>=|==|!=|[-+*/^:|~<>(),=\[\]])
    """,
    re.VERBOSE,
)
_INFIX = {
    "~": 1, "|": 2, "||": 2, "<": 3, ">": 3, "<=": 3, ">=": 3, "==": 3, "!=": 3, "+": 4, "-": 4,
    "*": 5, "/": 5, "%in%": 6, ":": 7, "^": 9,
}  # fmt: skip
_PREFIX_PRECEDENCE = 8
_PREFIX = {"-": _PREFIX_PRECEDENCE, "+": _PREFIX_PRECEDENCE, "~": 1}
_RIGHT_ASSOCIATIVE = {"^"}
_TIGHT = {"^", ":", "/"}
_DEEPEST = 100


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


def _tokens(text: str, dot: bool) -> list[_Token]:
    tokens = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None and dot and text[position] == ".":
            tokens.append(_Token("name", ".", position))
            position += 1
            continue
        if match is None:
            _fail_at_character(text, position)
        kind = str(match.lastgroup)
        if kind != "space":
            tokens.append(_Token(kind, match.group(kind), position))
        position = match.end()
    tokens.append(_Token("end", "", len(text)))
    return tokens


def _fail_at_character(text: str, position: int) -> NoReturn:
    character = text[position]
    if character in "\"'`":
        fail(text, position, f"the quote {character} is never closed")
    if character == ".":
        fail(text, position, "`.` is not supported: write out the columns")
    fail(text, position, f"'{character}' has no meaning in a formula")


class _Parser:
    """Precedence climbing over the tokens of one text."""

    def __init__(self, text: str, dot: bool) -> None:
        self.text = text
        self.tokens = _tokens(text, dot)
        self.next = 0
        self.depth = 0

    def parse(self) -> Expression:
        if len(self.tokens) == 1:
            fail(self.text, 0, "the formula is empty: write one such as 'y ~ x + (1 | g)'")
        tree = self.expression(0)
        if self.peek().kind != "end":
            self.unexpected(self.peek())
        return tree

    def peek(self) -> _Token:
        return self.tokens[self.next]

    def take(self) -> _Token:
        token = self.tokens[self.next]
        self.next += 1
        return token

    def accept(self, text: str) -> bool:
        token = self.peek()
        found = token.kind == "operator" and token.text == text
        self.next += found
        return found

    def expect(self, text: str) -> None:
        if not self.accept(text):
            self.unexpected(self.peek(), f"expected '{text}' here")

    def unexpected(self, token: _Token, hint: str = "") -> NoReturn:
        found = "the formula ends too early" if token.kind == "end" else f"'{token.text}' " + (
            "does not fit here"
        )  # fmt: skip
        fail(self.text, token.position, f"{found}: {hint}" if hint else found)

    def expression(self, minimum: int) -> Expression:
        self.depth += 1
        if self.depth > _DEEPEST:
            fail(self.text, self.peek().position, "the formula is nested too deeply")
        left = self.operand()
        while (operator := self.infix()) is not None and _INFIX[operator] >= minimum:
            token = self.take()
            floor = _INFIX[operator] + (operator not in _RIGHT_ASSOCIATIVE)
            left = Operation(operator, (left, self.expression(floor)), token.position)
        self.depth -= 1
        return left

    def infix(self) -> str | None:
        token = self.peek()
        text = "^" if token.text == "**" else token.text
        return text if token.kind == "operator" and text in _INFIX else None

    def operand(self) -> Expression:
        token = self.take()
        read: Callable[[_Token], Expression] = getattr(self, f"read_{token.kind}")
        return read(token)

    def read_end(self, token: _Token) -> Expression:
        self.unexpected(token, "a column, a number or a term is missing")

    def read_operator(self, token: _Token) -> Expression:
        if token.text in _PREFIX:
            return Operation(token.text, (self.expression(_PREFIX[token.text]),), token.position)
        if token.text != "(":
            self.unexpected(token, "a column, a number or a term is missing")
        inner = self.expression(0)
        self.expect(")")
        return replace(inner, enclosed=True) if isinstance(inner, Operation) else inner

    def read_number(self, token: _Token) -> Expression:
        return Number(float(token.text), token.position)

    def read_double(self, token: _Token) -> Expression:
        return String(token.text, token.position)

    read_single = read_double

    def read_quoted(self, token: _Token) -> Expression:
        return Name(token.text, token.position)

    def read_name(self, token: _Token) -> Expression:
        if self.accept("("):
            return self.call(token)
        if re.search(r"(^|\.)__\w*__($|\.)", token.text):
            fail(
                self.text,
                token.position,
                f"'{token.text}' is not allowed: a formula knows columns, numbers and listed "
                "functions only (a column of this name can be quoted in backquotes)",
            )
        return Name(token.text, token.position)

    def call(self, name: _Token) -> Expression:
        signature = CALLS.get(name.text)
        if signature is None:
            fail(
                self.text,
                name.position,
                f"'{name.text}' is not a function a formula may call{suggest(name.text, CALLS)}; "
                f"available: {', '.join(sorted(CALLS))}",
            )
        operands = [self.expression(0)]
        while len(operands) < signature.expressions:
            self.expect(",")
            operands.append(self.expression(0))
        written = [str(operand) for operand in operands]
        constants: dict[str, Any] = {}
        while self.accept(","):
            key, value, text = self.constant_argument(name.text, signature, constants)
            constants[key] = value
            written.append(text)
        self.expect(")")
        return Call(
            name.text,
            tuple(operands),
            tuple(constants.items()),
            ", ".join(written),
            name.position,
        )

    def constant_argument(
        self, function: str, signature: Signature, taken: dict[str, Any]
    ) -> tuple[str, Any, str]:
        token = self.peek()
        following = self.tokens[self.next + 1] if token.kind == "name" else token
        if following.kind == "operator" and following.text == "=":
            self.next += 2
            key, prefix = token.text, f"{token.text} = "
        else:
            free = [k for k in signature.constants if k not in taken]
            key, prefix = (free[0] if free else ""), ""
        if key not in signature.constants or key in taken:
            takes = ", ".join(signature.constants) or "no further arguments"
            fail(self.text, token.position, f"{function}() takes {takes} here")
        value, text = self.constant(function, key)
        return key, value, prefix + text

    def constant(self, function: str, key: str) -> tuple[Any, str]:
        """A number, string, TRUE/FALSE, name of contrasts, or c(...) / [...] of constants."""
        token = self.take()
        sign = 1.0
        if token.kind == "operator" and token.text in "+-":
            sign, token = (-1.0 if token.text == "-" else 1.0), self.take()
            if token.kind != "number":
                self.unexpected(token, "expected a number")
        if token.kind == "number":
            value = sign * float(token.text)
            return (int(value) if value.is_integer() else value), _format_number(value)
        if token.kind in ("double", "single"):
            return token.text, f'"{token.text}"'
        if token.kind == "name" and token.text in _CONSTANT_NAMES:
            truth = _CONSTANT_NAMES[token.text]
            return truth, str(truth).upper()
        if token.kind == "name" and key == "contrasts" and _CONTRAST_NAME.match(token.text):
            return token.text, token.text
        if token.kind == "name" and token.text == "c" and self.accept("("):
            return self.sequence(function, key, ")")
        if token.kind == "operator" and token.text == "[":
            return self.sequence(function, key, "]")
        self.unexpected(
            token, f"the argument {key} of {function}() must be a constant, not an expression"
        )

    def sequence(self, function: str, key: str, closing: str) -> tuple[Any, str]:
        items = [self.constant(function, key)]
        while self.accept(","):
            items.append(self.constant(function, key))
        self.expect(closing)
        return tuple(value for value, _ in items), f"c({', '.join(text for _, text in items)})"


def _within(node: Expression, precedence: int) -> str:
    return f"({node})" if node.precedence < precedence else str(node)


def _format_number(value: float) -> str:
    """As R prints it, for the numbers people write in formulas: 2, 0.5, 1e+05."""
    fixed, scientific = f"{value:.15g}", f"{value:.14e}"
    mantissa, exponent = scientific.split("e")
    scientific = f"{mantissa.rstrip('0').rstrip('.')}e{exponent}"
    return fixed if len(fixed) <= len(scientific) else scientific
