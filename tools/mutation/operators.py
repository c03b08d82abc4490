"""What is done to a line: the smallest changes that remove what it enforces.

A guard is switched off (never on: a guard that always refuses breaks every test and proves nothing), a call is
dropped, a part of an expression is left out or changed for another of the same type. A change that only makes the
code stumble over itself (a NameError, say) proves no more than that the line is run: the runner does not count it.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tools.mutation.sites import Site, statement_at

_WRAPPERS = {"sorted", "bytes", "frozenset", "set", "tuple", "list", "abs", "reversed", "max", "min", "int", "bool"}
_METHODS = {"ljust", "rjust", "strip", "lstrip", "rstrip", "lower", "upper", "casefold", "replace"}
_DRAWS = {"octets", "token_bytes"}
_EDGES = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change of one module: its words and the whole new text."""

    what: str
    source: str


class _Text:
    """Replaces spans of a module's text; the columns of `ast` are octets of UTF-8."""

    def __init__(self, source: str) -> None:
        self.octets = source.encode()
        self.starts = [0]
        for row in source.encode().splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(row))

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def replace(self, node: ast.expr | ast.stmt, text: str) -> str:
        first, last = self.span(node)
        return (self.octets[:first] + text.encode() + self.octets[last:]).decode()


def mutants(source: str, site: Site) -> list[Mutant]:
    """The changes of one site, the removal of the whole line first; empty where no statement stands there."""
    if site.was:
        return [
            Mutant(f"{_short(site.was)} becomes {_short(site.becomes)}", source.replace(site.was, site.becomes))
        ]
    tree = ast.parse(source)
    statement = statement_at(tree, site.line)
    if statement is None:
        return []
    text = _Text(source)
    found: list[Mutant] = []
    seen = {source}
    for what, mutated in [*_of_statement(statement, text, site.line), *_of_parts(statement, text, site.line)]:
        if mutated in seen:
            continue
        seen.add(mutated)
        try:
            compile(mutated, site.file, "exec")
        except (SyntaxError, ValueError):
            continue
        found.append(Mutant(what, mutated))
    return found


def _short(text: str) -> str:
    one_line = " ".join(text.split())
    return f"`{one_line if len(one_line) <= 60 else one_line[:57] + '...'}`"


def _leaves(body: list[ast.stmt]) -> bool:
    return isinstance(body[-1], ast.Raise | ast.Return | ast.Continue | ast.Break)


def _of_statement(node: ast.stmt, text: _Text, line: int) -> Iterator[tuple[str, str]]:
    """The statement as a whole, if the line is where it begins (or all there is of it)."""
    if isinstance(node, ast.If):
        yield f"`if {ast.unparse(node.test)}` never", text.replace(node.test, "False")
        if not _leaves(node.body) or node.orelse:
            yield f"`if {ast.unparse(node.test)}` always", text.replace(node.test, "True")
    elif isinstance(node, ast.For):
        yield f"no round of `for ... in {ast.unparse(node.iter)}`", text.replace(node.iter, "()")
    elif isinstance(node, ast.Raise | ast.Continue | ast.Break | ast.Delete) or (
        isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    ):
        if node.lineno == line or not isinstance(node, ast.Expr):
            yield f"without {_short(ast.unparse(node))}", text.replace(node, "pass")
    elif isinstance(node, ast.Return) or (isinstance(node, ast.Assign | ast.AugAssign) and node.lineno == line):
        yield f"without {_short(ast.unparse(node))}", text.replace(node, "pass")


def _roots(node: ast.stmt) -> list[ast.expr]:
    """The expressions of a statement's own line: not its block, not annotations."""
    match node:
        case ast.If() | ast.While():
            return [node.test]
        case ast.For():
            return [node.iter]
        case ast.With():
            return [item.context_expr for item in node.items]
        case ast.FunctionDef():
            return [*node.args.defaults, *(default for default in node.args.kw_defaults if default is not None)]
        case ast.Return() | ast.Assign() | ast.AnnAssign() | ast.AugAssign() | ast.Expr():
            return [node.value] if node.value is not None else []
    return []


def _of_parts(node: ast.stmt, text: _Text, line: int) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.FunctionDef):
        body = [
            some for some in node.body if not (isinstance(some, ast.Expr) and isinstance(some.value, ast.Constant))
        ]
        if len(body) == 1 and not isinstance(body[0], ast.If | ast.For | ast.With | ast.Try):
            yield from _of_statement(body[0], text, body[0].lineno)
            yield from _of_parts(body[0], text, body[0].lineno)
    roots = _roots(node)
    whole = node.lineno == line or not any(
        inner.lineno == line for root in roots for inner in ast.walk(root) if isinstance(inner, ast.expr)
    )
    for root in roots:
        for expression, parent in _expressions(root):
            begins_here = expression.lineno == line
            for what, changed, at in _changes(expression, parent):
                if whole or begins_here or at == line:
                    words = f"{_short(ast.unparse(expression))}: {what}"
                    yield words, text.replace(expression, f"({ast.unparse(changed)})")
    if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call) and whole:
        yield f"None instead of {_short(ast.unparse(node.value))}", text.replace(node.value, "None")


def _expressions(root: ast.expr) -> Iterator[tuple[ast.expr, ast.AST | None]]:
    queue: list[tuple[ast.AST, ast.AST | None]] = [(root, None)]
    while queue:
        node, parent = queue.pop(0)
        if isinstance(node, ast.JoinedStr):
            continue
        if isinstance(node, ast.expr):
            yield node, parent
        queue += [(child, node) for child in ast.iter_child_nodes(node)]


def _with(node: ast.expr, change: Callable[[ast.expr], object]) -> ast.expr:
    changed = copy.deepcopy(node)
    change(changed)
    return changed


Change = tuple[str, ast.expr, int]
"""Its words, the new expression, and the line of the part that it is about."""


def _changes(node: ast.expr, parent: ast.AST | None) -> Iterator[Change]:
    line = node.lineno
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in _EDGES:
            other = _EDGES[type(operator)]()
            changed = ast.Compare(node.left, [other], node.comparators)
            yield f"`{ast.unparse(changed)}`", changed, line
        case ast.Compare(ops=[_, _, *_]):
            for i in range(len(node.ops)):
                operands = [node.left, *node.comparators]
                kept = [
                    ast.Compare(operands[j], [node.ops[j]], [operands[j + 1]])
                    for j in range(len(node.ops))
                    if j != i
                ]
                yield (
                    f"without its comparison {i + 1}",
                    kept[0] if len(kept) == 1 else ast.BoolOp(ast.And(), kept),
                    line,
                )
        case ast.BoolOp():
            for i, value in enumerate(node.values):
                rest = [other for j, other in enumerate(node.values) if j != i]
                changed = rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
                yield f"without `{ast.unparse(value)}`", changed, value.lineno
        case ast.UnaryOp(op=ast.Not() | ast.Invert() | ast.USub()):
            yield f"`{ast.unparse(node.operand)}`", node.operand, line
        case ast.BinOp():
            for side in (node.left, node.right):
                yield f"only `{ast.unparse(side)}`", side, line
        case ast.IfExp():
            for side in (node.body, node.orelse):
                yield f"always `{ast.unparse(side)}`", side, line
        case ast.Constant():
            yield from _of_constant(node, parent)
        case ast.Attribute(value=ast.Name(id=name)) if name[0].isupper() and node.attr.isupper():
            text = ast.unparse(node)
            yield "the next member", ast.parse(f"type({text})({text} + 1)", mode="eval").body, line
        case ast.Name() if node.id.lstrip("_").isupper() and len(node.id) > 2:
            yield "one more", ast.BinOp(node, ast.Add(), ast.Constant(1)), line
            yield (
                "another last octet",
                ast.parse(f"{node.id}[:-1] + bytes([{node.id}[-1] ^ 1])", mode="eval").body,
                line,
            )
        case ast.Subscript(slice=ast.Slice()):
            yield "the whole", node.value, line
        case ast.Tuple() | ast.List() | ast.Set() if node.elts:
            for i, element in enumerate(node.elts):
                yield (
                    f"without `{ast.unparse(element)}`",
                    _with(node, lambda it, i=i: it.elts.pop(i)),
                    element.lineno,
                )
        case ast.Dict() if node.keys:
            for i, key in enumerate(node.keys):
                changed = ast.Dict([*node.keys[:i], *node.keys[i + 1 :]], [*node.values[:i], *node.values[i + 1 :]])
                at = key.lineno if key is not None else node.values[i].lineno
                yield f"without `{ast.unparse(key) if key else '**'}`", changed, at
        case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
            if isinstance(node, ast.ListComp):
                yield "nothing", ast.List([], ast.Load()), line
            for i, generator in enumerate(node.generators):
                for j, test in enumerate(generator.ifs):
                    changed = _with(node, lambda it, i=i, j=j: it.generators[i].ifs.pop(j))
                    yield f"without `if {ast.unparse(test)}`", changed, test.lineno
        case ast.Call():
            yield from _of_call(node)


def _of_constant(node: ast.Constant, parent: ast.AST | None) -> Iterator[Change]:
    value = node.value
    match value:
        case bool():
            yield f"`{not value}`", ast.Constant(not value), node.lineno
        case int():
            # 255 and its like fill their field: one more would not fit.
            other = value - 1 if value > 1 and value & value + 1 == 0 else value + 1
            yield f"`{other}`", ast.Constant(other), node.lineno
        case float():
            yield f"`{2 * value + 1}`", ast.Constant(2 * value + 1), node.lineno
        case bytes():
            changed = bytes([value[0] ^ 1]) + value[1:] if value else b"\1"
            yield f"`{changed!r}`", ast.Constant(changed), node.lineno
        case str() if value[:1] in "!>" and isinstance(parent, ast.Call):
            yield "the other order of octets", ast.Constant("<" + value[1:]), node.lineno
        case str():
            yield "another text", ast.Constant(value + "x"), node.lineno


def _is_plain(value: ast.expr) -> bool:
    """A variable or an attribute, not a constant's name or a type's."""
    name = value.id if isinstance(value, ast.Name) else value.attr if isinstance(value, ast.Attribute) else ""
    return name.islower()


def _of_call(node: ast.Call) -> Iterator[Change]:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if name in _WRAPPERS:
        for argument in node.args:
            if not isinstance(argument, ast.Starred | ast.GeneratorExp):
                yield f"only `{ast.unparse(argument)}`", argument, node.lineno
    if name == "len":
        yield "one more", ast.BinOp(node, ast.Add(), ast.Constant(1)), node.lineno
    if method in _METHODS and isinstance(node.func, ast.Attribute):
        yield f"without {method}", node.func.value, node.lineno
    if method in _DRAWS and len(node.args) == 1:
        yield "zeros", ast.Call(ast.Name("bytes"), node.args, []), node.lineno
    if method == "compare_digest" or name == "isinstance":
        yield "always true", ast.Constant(True), node.lineno
    if name in {"all", "any"}:
        for value in (True, False):
            yield f"always {value}", ast.Constant(value), node.lineno
    if not node.args and not node.keywords:
        yield "0", ast.Constant(0), node.lineno
    for i, argument in enumerate(node.args):
        if _is_plain(argument):
            changed = ast.Call(node.func, [*node.args[:i], ast.Constant(0), *node.args[i + 1 :]], node.keywords)
            yield f"0 for `{ast.unparse(argument)}`", changed, argument.lineno
    for i, keyword in enumerate(node.keywords):
        if _is_plain(keyword.value):
            zero = ast.keyword(keyword.arg, ast.Constant(0))
            changed = ast.Call(node.func, node.args, [*node.keywords[:i], zero, *node.keywords[i + 1 :]])
            yield f"0 for {keyword.arg or '**'}", changed, keyword.value.lineno
    for i, keyword in enumerate(node.keywords):
        if keyword.arg is not None:
            changed = ast.Call(node.func, node.args, [other for j, other in enumerate(node.keywords) if j != i])
            yield f"without {keyword.arg}", changed, keyword.value.lineno
