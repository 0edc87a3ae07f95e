"""Small faults in source text: what `tools/mutation.py` puts into the package to see whether a test notices.

A mutant replaces one expression or statement. Left alone are docstrings, messages of errors and warnings, f-strings,
annotations, ``__repr__``, titles of progress bars, and the bounds and help of declared parameters (not their defaults).
"""

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path

_COMPARE = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "in": "not in", "not in": "in"}
_COMPARE |= {"is": "is not", "is not": "is"}
_BINARY = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "/", "%": "*", "**": "*", "&": "|", "|": "&"}
_SYMBOLS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.In: "in"}
_SYMBOLS |= {ast.NotIn: "not in", ast.Is: "is", ast.IsNot: "is not", ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}
_SYMBOLS |= {ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**", ast.BitAnd: "&", ast.BitOr: "|"}
_SWAPS = {"rint": "floor", "floor": "ceil", "ceil": "floor", "round": "int", "argmax": "argmin", "argmin": "argmax"}
_SWAPS |= {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any"}
_SWAPS |= {"mean": "sum", "median": "mean", "zeros": "ones", "ones": "zeros", "zeros_like": "ones_like"}
_SWAPS |= {"reduce_mean": "reduce_sum", "reduce_sum": "reduce_mean", "reduce_max": "reduce_min", "std": "var"}
_DROPPED_CALLS = {"abs", "clip", "sqrt", "square", "relu", "sorted", "clip_by_value", "log", "exp", "cumsum", "ravel"}
_MESSAGES = {"warn", "print", "progress", "debug", "info", "warning", "log_"}
_COSMETIC = {"title", "help", "stacklevel", "name", "dtype", "desc", "paper"}
_NUMERIC = ("np.ndarray", "float", "int", "tf.Tensor")


@dataclass(frozen=True)
class Mutant:
    """One change. ``start`` and ``end`` are bytes of the file; ``key`` outlives edits elsewhere in the file."""

    path: str
    function: str
    line: int
    before: str
    after: str
    start: int
    end: int
    number: int = 0

    @property
    def key(self) -> str:
        place = f"{self.path}::{self.function}" + (f"#{self.number}" if self.number else "")
        return f"{place}: {' '.join(self.before.split())} -> {' '.join(self.after.split())}"

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.end :]


def mutants_of(path: str, source: bytes) -> list[Mutant]:
    """All mutants of a file, in its order."""
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    return finder.found


def sample(root: Path, packages: list[str], seed: int) -> list[Mutant]:
    """All mutants below ``packages``, shuffled by ``seed``, and the files take turns, so that the first hundred are
    spread over all of them. A mutant's place among its file's does not depend on the other mutants."""
    files = sorted(f for p in packages for f in ((root / p).rglob("*.py") if (root / p).is_dir() else [root / p]))
    shuffled = []
    for file in files:
        found = mutants_of(str(file.relative_to(root)), file.read_bytes())
        ordered = sorted(found, key=lambda m: hashlib.sha1(f"{seed} {m.key}".encode()).digest())
        turn = hashlib.sha1(f"{seed} {file.relative_to(root)}".encode()).digest()
        shuffled += [(number, turn, mutant) for number, mutant in enumerate(ordered)]
    return [mutant for *_, mutant in sorted(shuffled, key=lambda entry: entry[:2])]


class _Finder(ast.NodeVisitor):
    def __init__(self, path: str, source: bytes):
        self.path, self.source, self.found = path, source, []
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.scope: list[ast.AST] = []

    def replace(self, node: ast.AST, after: str) -> None:
        start = self.starts[node.lineno - 1] + node.col_offset
        end = self.starts[node.end_lineno - 1] + node.end_col_offset
        before = self.source[start:end].decode()
        if after == before:
            return
        function = ".".join(s.name for s in self.scope)
        place = (function, " ".join(before.split()), " ".join(after.split()))
        same = sum((m.function, " ".join(m.before.split()), " ".join(m.after.split())) == place for m in self.found)
        self.found.append(Mutant(self.path, function, node.lineno, before, after, start, end, same))

    def text(self, node: ast.AST) -> str:
        return ast.unparse(node)

    # What is left alone --------------------------------------------------------------------------------------------

    def visit_FunctionDef(self, node) -> None:
        if node.name in ("__repr__", "__str__"):
            return
        self.scope.append(node)
        for default in [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]:
            self.visit(default)
        for statement in node.body:
            self.visit(statement)
        self.scope.pop()

    def visit_ClassDef(self, node) -> None:
        self.scope.append(node)
        for statement in node.body:
            self.visit(statement)
        self.scope.pop()

    def visit_AnnAssign(self, node) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_If(self, node) -> None:
        if self.text(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_JoinedStr(self, node) -> None:
        pass

    def visit_Assert(self, node) -> None:
        pass

    def visit_keyword(self, node) -> None:
        if node.arg == "axis" and isinstance(node.value, ast.Constant) and node.value.value in (0, 1):
            self.replace(node.value, str(1 - node.value.value))
        elif node.arg == "side" and isinstance(node.value, ast.Constant):
            self.replace(node.value, '"right"' if node.value.value == "left" else '"left"')
        elif node.arg not in _COSMETIC:
            self.visit(node.value)

    # Statements ----------------------------------------------------------------------------------------------------

    def visit_Raise(self, node) -> None:
        self.replace(node, "pass")

    def visit_Expr(self, node) -> None:
        if isinstance(node.value, ast.Call) and _name(node.value) not in _MESSAGES:
            self.replace(node, "pass")
            self.visit(node.value)

    def visit_AugAssign(self, node) -> None:
        self.replace(node, "pass")
        symbol = _SYMBOLS.get(type(node.op))
        if symbol in _BINARY:
            self.replace(node, f"{self.text(node.target)} {_BINARY[symbol]}= {self.text(node.value)}")
        self.visit(node.value)

    def visit_Assign(self, node) -> None:
        target = node.targets[0]
        if isinstance(target, ast.Name) and target.id in _COSMETIC:
            return
        read = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        if isinstance(target, ast.Name) and target.id in read:
            self.replace(node, "pass")
        self.visit(node.value)

    def visit_Return(self, node) -> None:
        returns = next((s.returns for s in reversed(self.scope) if isinstance(s, ast.FunctionDef)), None)
        kind = "" if returns is None else self.text(returns)
        if kind in _NUMERIC and node.value is not None:
            self.replace(node.value, f"-({self.text(node.value)})")
        elif kind == "bool":
            self.replace(node.value, f"not ({self.text(node.value)})")
        if node.value is not None:
            self.visit(node.value)

    # Expressions ---------------------------------------------------------------------------------------------------

    def visit_Compare(self, node) -> None:
        if len(node.ops) == 1 and (symbol := _SYMBOLS.get(type(node.ops[0]))):
            left, right = self.text(node.left), self.text(node.comparators[0])
            self.replace(node, f"(({left}) {_COMPARE[symbol]} ({right}))")
        self.generic_visit(node)

    def visit_BinOp(self, node) -> None:
        symbol = _SYMBOLS.get(type(node.op))
        words = any(isinstance(n, ast.JoinedStr) or _is_text(n) for n in (node.left, node.right))
        if symbol in _BINARY and not words:
            self.replace(node, f"(({self.text(node.left)}) {_BINARY[symbol]} ({self.text(node.right)}))")
        self.generic_visit(node)

    def visit_BoolOp(self, node) -> None:
        other = " or " if isinstance(node.op, ast.And) else " and "
        self.replace(node, "(" + other.join(f"({self.text(v)})" for v in node.values) + ")")
        self.generic_visit(node)

    def visit_UnaryOp(self, node) -> None:
        self.replace(node, f"({self.text(node.operand)})")
        if not isinstance(node.operand, ast.Constant):
            self.visit(node.operand)

    def visit_IfExp(self, node) -> None:
        self.replace(node, f"({self.text(node.orelse)} if {self.text(node.test)} else {self.text(node.body)})")
        self.generic_visit(node)

    def visit_Slice(self, node) -> None:
        lower, upper, step = (None if part is None else self.text(part) for part in (node.lower, node.upper, node.step))
        for low, high, by in {(None, upper, step), (lower, None, step), (lower, upper, None)}:
            text = f"{low or ''}:{high or ''}" + (f":{by}" if by else "")
            if (low, high, by) != (lower, upper, step):
                self.replace(node, text)
        self.generic_visit(node)

    def visit_Constant(self, node) -> None:
        value = node.value
        if isinstance(value, bool):
            self.replace(node, str(not value))
        elif isinstance(value, int):
            self.replace(node, str(value + 1))
            self.replace(node, f"({value - 1})")
        elif isinstance(value, float):
            self.replace(node, repr(value * 2 if value else 1.0))
            self.replace(node, repr(value / 2 if value else -1.0))

    def visit_Call(self, node) -> None:
        name = _name(node)
        if name in _MESSAGES:
            return
        if name == "Parameter":  # name, kind, default; then help and bounds
            for default in node.args[2:3]:
                self.visit(default)
            return
        if name in _SWAPS:
            self.replace(node.func, f"{self.text(node.func)[: -len(name)]}{_SWAPS[name]}")
        if name in _DROPPED_CALLS:
            inside = node.args[0] if node.args else getattr(node.func, "value", None)
            if inside is not None:
                self.replace(node, f"({self.text(inside)})")
        if name == "argsort" and node.args:
            self.replace(node.args[0], f"-({self.text(node.args[0])})")
        self.generic_visit(node)


def _name(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
