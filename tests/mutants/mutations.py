"""Small faults of a Python file, each one change of its text: what `make mutants` puts in, one at a time."""

from __future__ import annotations

import ast
import copy
import dataclasses
from collections.abc import Iterator

_SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One fault: the whole text with it in, its line (from 1), and that line before and after."""

    line: int
    was: str
    becomes: str
    text: str


def mutants_of(text: str) -> list[Mutant]:
    """Return every fault of a file, in its order. Texts of errors, docstrings and annotations are left alone."""
    found = []
    lines = text.encode().splitlines(keepends=True)
    for node, other in _changes(ast.parse(text)):
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        before = b"".join(lines[:first]) + lines[first][: node.col_offset]
        after = lines[last][node.end_col_offset :] + b"".join(lines[last + 1 :])
        new = other.encode() if isinstance(node, ast.stmt) else b"(" + other.encode() + b")"
        # What spans several lines becomes one, and blank lines keep the numbers of those below.
        mutated = (before + new + b"\n" * (last - first) + after).decode()
        if ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(text)):
            was = " ".join(b"".join(lines[first : last + 1]).decode().split())
            found.append(Mutant(first + 1, was, " ".join(mutated.splitlines()[first].split()), mutated))
    return sorted(found, key=lambda mutant: (mutant.line, mutant.becomes))


def _changes(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Yield each node that can be replaced, with the text to put in its place."""
    for node in _looked_at(tree):
        match node:
            case ast.Compare(ops=ops):
                for place, operator in enumerate(ops):
                    other = copy.deepcopy(node)
                    other.ops[place] = _SWAPS[type(operator)]()  # type: ignore[call-overload]
                    yield node, ast.unparse(other)
            case ast.BoolOp() | ast.BinOp() if type(node.op) in _SWAPS:
                other = copy.deepcopy(node)
                other.op = _SWAPS[type(node.op)]()  # type: ignore[assignment]
                yield node, ast.unparse(other)
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                yield node, ast.unparse(operand)
            case ast.Constant(value=bool(value)):
                yield node, str(not value)
            case ast.Constant(value=int(value) | float(value)):
                yield node, repr(value + 1)
            case ast.Dict(keys=keys) if len(keys) > 1:
                for place in range(len(keys)):
                    other = copy.deepcopy(node)
                    del other.keys[place], other.values[place]
                    yield node, ast.unparse(other)
            case (
                ast.If(test=ast.Name() | ast.Attribute() | ast.Call() as test)
                | ast.IfExp(test=ast.Name() | ast.Attribute() | ast.Call() as test)
            ):
                yield test, f"not {ast.unparse(test)}"
            case ast.Expr(value=ast.Call()) | ast.Raise() | ast.AugAssign() | ast.Continue() | ast.Break():
                yield node, "pass"
            case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
                yield node, "return None"


def _looked_at(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and those below it, without texts, annotations and what an error says."""
    yield node
    if isinstance(node, ast.Raise | ast.JoinedStr):
        return
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "type_params"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _looked_at(child)
