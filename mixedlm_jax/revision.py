"""A formula changed by another, as R's `update.formula` does: `. ~ . + x - (1 | g)`."""

from __future__ import annotations

from mixedlm_jax.errors import FormulaError
from mixedlm_jax.expression import Call, Expression, Name, Operation, parse_expression, walk
from mixedlm_jax.formula import Formula, Reader, Signed, Terms, as_bar, parse, split_sum

_DOT = Name(".")


def revise(old: Formula, text: str) -> Formula:
    """The formula that `text` makes of `old`; `.` stands for that side of the old formula.

    Terms are expanded and put in R's order: `a * b` becomes `a + b + a:b`, interactions after main
    effects, offsets last. A text without a left-hand side keeps the response.

    Raises
    ------
    FormulaError
        For text outside the language, a `.` that is no summand of its own, and a term taken away
        that is not there.
    """
    if not isinstance(text, str):
        raise FormulaError(
            f"update takes a formula such as '. ~ . + x', found {type(text).__name__}"
        )
    tree = parse_expression(text, dot=True)
    if not isinstance(tree, Operation) or tree.operator != "~":
        raise FormulaError(f"'{text}' has no '~': write a formula such as '. ~ . + x'")
    left = _left(old, text[: tree.position].strip())
    right = _right(old, text, tree.operands[-1])
    return parse(f"{left} ~ {right}", mixed=bool(old.random))


def _left(old: Formula, text: str) -> str:
    if text in ("", "."):
        return old.left
    dots = [node.position for node in walk(parse_expression(text, dot=True)) if node == _DOT]
    for at in sorted(dots, reverse=True):
        text = f"{text[:at]}{old.left}{text[at + 1 :]}"
    return text


def _right(old: Formula, text: str, right: Expression) -> str:
    """The new right-hand side as text."""
    reader = Reader(text)
    parts: list[Signed] = []
    for positive, node in split_sum(right):
        if node == _DOT and positive:
            whole = parse_expression(old.text)
            parts += split_sum(whole.operands[-1])
            continue
        if any(part == _DOT for part in walk(node)):
            reader.fail(node, "`.` must be a summand of its own, as in . ~ . + x")
        parts.append((positive, node))
    offsets = [part for part in parts if _is_offset(part[1])]
    written: dict[Expression, str] = {}
    fixed = [(positive, _as_variable(node, written)) for positive, node in parts
             if not _is_offset(node)]  # fmt: skip
    _check_taken_away(reader, fixed)
    terms = reader.terms(fixed)
    kept = _kept_offsets(reader, offsets)
    return _render(terms, written, kept)


def _is_offset(node: Expression) -> bool:
    return isinstance(node, Call) and node.function == "offset"


def _as_variable(node: Expression, written: dict[Expression, str]) -> Expression:
    """A random term as one variable, which R's algebra of terms treats it as."""
    bar = as_bar(node)
    if bar is None:
        return node
    structure, inner = bar
    text = f"{'' if structure == 'us' else structure}({inner})"
    variable = Name(text, node.position)
    written[variable] = text
    return variable


def _check_taken_away(reader: Reader, parts: list[Signed]) -> None:
    for i, (positive, node) in enumerate(parts):
        if positive:
            continue
        taken = {frozenset(term) for term in reader.terms([(True, node)]).terms}
        present = {frozenset(term) for term in reader.terms(parts[:i]).terms}
        if taken and not present & taken:
            _fail_absent(reader, node)


def _kept_offsets(reader: Reader, parts: list[Signed]) -> list[str]:
    kept: dict[Expression, None] = {}
    for positive, node in parts:
        if positive:
            kept[node] = None
        elif node in kept:
            del kept[node]
        else:
            _fail_absent(reader, node)
    return [str(node) for node in kept]


def _fail_absent(reader: Reader, node: Expression) -> None:
    shown = node.name if isinstance(node, Name) else str(node)
    reader.fail(node, f"the formula has no term {shown} that could be taken away")


def _render(terms: Terms, written: dict[Expression, str], offsets: list[str]) -> str:
    names = [":".join(written.get(v, str(v)) for v in term) for term in terms.terms]
    text = " + ".join([*names, *offsets]) or str(int(terms.intercept))
    return text if terms.intercept else f"{text} - 1"
