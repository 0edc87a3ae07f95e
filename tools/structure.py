"""The shape of the package (``make structure``): its size, and the rules that its modules keep.

Read from the syntax trees alone; nothing of the package is run. Rules, each of which a test holds:

- no circle of imports, those of types and inside functions included;
- no import upward: `FLOORS` has the order, the ground first;
- no private name (``_x``) of one module used in another;
- no registration by import: a module is imported for what is used of it;
- no file over `FILE_LINES`, no function over `FUNCTION_LINES` of code, and at most `PARAMETERS` parameters unless each
  is an option that is documented, in the docstring of a public function or as a declared `Parameter`;
- every public function and method states the types of its parameters and of what it returns.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "xaiutils"
# Lowest first. A module imports from its own floor and from those below; modules of the package's own folder that are
# not named here are the ground.
FLOORS = ["datasets", "statistics", "models", "graph", "transforms", "attribution", "beyond_maps", "own_model"]
FLOORS += ["classification", "training", "evaluation", "plots", "workbook", "widgets", "batch"]
FILE_LINES, FUNCTION_LINES, PARAMETERS = 400, 60, 8
MANY_LINES = 40  # of a function that is counted, not refused

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Module:
    """One file: its dotted name, its source, and its tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module = field(repr=False)

    @cached_property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @property
    def floor(self) -> int:
        parts = self.name.split(".")
        return FLOORS.index(parts[1]) + 1 if len(parts) > 1 and parts[1] in FLOORS else 0

    @cached_property
    def imports(self) -> list[tuple[str, str, int]]:
        """Each import from the package: (module, name or "", line)."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
                found += [(node.module, alias.name, node.lineno) for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [a.name for a in node.names if a.name.split(".")[0] == PACKAGE]
                found += [(name, "", node.lineno) for name in names]
        return found

    def functions(self) -> Iterator[tuple[Function, str, bool]]:
        """Each function with its qualified name, and whether it is public: at no level private or local."""

        def visit(body: list[ast.stmt], prefix: str, public: bool) -> Iterator[tuple[Function, str, bool]]:
            for node in body:
                if isinstance(node, Function | ast.ClassDef):
                    own = public and not node.name.startswith("_")
                    if isinstance(node, ast.ClassDef):
                        yield from visit(node.body, f"{prefix}{node.name}.", own)
                    else:
                        yield node, prefix + node.name, own or (public and node.name == "__init__")
                        yield from visit(node.body, f"{prefix}{node.name}.", False)
                else:
                    inner = [s for s in ast.iter_child_nodes(node) if isinstance(s, ast.stmt)]
                    yield from visit(inner, prefix, public)

        return visit(self.tree.body, "", True)


def read_package(root: Path = ROOT) -> dict[str, Module]:
    """All modules of the package by their dotted names."""
    modules = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        text = path.read_text(encoding="utf-8")
        modules[name] = Module(name, path.relative_to(root), text, ast.parse(text))
    return modules


def imported(modules: dict[str, Module]) -> dict[str, dict[str, int]]:
    """Which modules each imports, with the line. The package's own ``__init__`` loads on demand and is left out."""
    graph: dict[str, dict[str, int]] = {}
    for module in modules.values():
        into = graph.setdefault(module.name, {})
        for source, name, line in module.imports:
            target = f"{source}.{name}" if f"{source}.{name}" in modules else source
            if target in modules and target not in (module.name, PACKAGE):
                into.setdefault(target, line)
    return graph


def circles(modules: dict[str, Module]) -> list[list[str]]:
    """Modules that import each other in a loop (Tarjan's strongly connected components)."""
    graph = imported(modules)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def upward(modules: dict[str, Module]) -> list[str]:
    """Imports from a lower floor to a higher one."""
    return [
        f"{modules[name].path}:{line} imports {other}"
        for name, others in imported(modules).items()
        for other, line in others.items()
        if modules[other].floor > modules[name].floor and name != PACKAGE
    ]


def private_names(modules: dict[str, Module]) -> list[str]:
    """Names with a leading underscore that one module takes from another: imported, or read of an object."""
    defined = {m.name: _own_private(m.tree) for m in modules.values()}
    everywhere = set().union(*defined.values())
    found = []
    for module in modules.values():
        for source, name, line in module.imports:
            if _is_private(name):
                found.append(f"{module.path}:{line} imports {source}.{name}")
        foreign = everywhere - defined[module.name]
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and node.attr in foreign:
                found.append(f"{module.path}:{node.lineno} reads {ast.unparse(node)}")
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _own_private(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
    return {name for name in names if _is_private(name)}


def registrations(modules: dict[str, Module]) -> list[str]:
    """Imports that are there for what they do, not for what they name."""
    return [
        f"{module.path}:{number}"
        for module in modules.values()
        for number, line in enumerate(module.text.splitlines(), 1)
        if "noqa: F401" in line
    ]


def code_lines(function: Function) -> int:
    """Lines of a function without its docstring and its decorators."""
    first = function.body[0]
    described = ast.get_docstring(function, clean=False) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if described else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def parameters(function: Function) -> list[ast.arg]:
    """All parameters but ``self`` and ``cls``."""
    a = function.args
    return [p for p in (*a.posonlyargs, *a.args, *a.kwonlyargs) if p.arg not in ("self", "cls")]


def long_files(modules: dict[str, Module]) -> list[str]:
    """Files over `FILE_LINES`."""
    return [f"{m.path}: {m.lines} lines" for m in modules.values() if m.lines > FILE_LINES]


def long_functions(modules: dict[str, Module], limit: int = FUNCTION_LINES) -> list[str]:
    """Functions of more than ``limit`` lines of code."""
    return [
        f"{m.path}:{f.lineno} {name}: {code_lines(f)} lines"
        for m in modules.values()
        for f, name, _ in m.functions()
        if code_lines(f) > limit
    ]


def many_parameters(modules: dict[str, Module]) -> list[str]:
    """Functions of more than `PARAMETERS` parameters, unless public and each is named in the docstring or declared as a
    `Parameter`, which has its own help."""
    declared = set(re.findall(r'Parameter\(\s*"(\w+)"', "".join(m.text for m in modules.values())))
    declared |= {"network", "images", "targets", "batch_size"}  # what every method takes
    found = []
    for module in modules.values():
        for function, name, public in module.functions():
            given = parameters(function)
            text = ast.get_docstring(function) or ""
            if name.endswith("__init__"):  # the class says what its parameters are
                text += module.text
            if len(given) > PARAMETERS and not (public and all(p.arg in text or p.arg in declared for p in given)):
                found.append(f"{module.path}:{function.lineno} {name}: {len(given)} parameters")
    return found


def untyped(modules: dict[str, Module]) -> list[str]:
    """Public functions of which a parameter or the result has no type."""
    found = []
    for module in modules.values():
        for function, name, public in module.functions():
            missing = [p.arg for p in parameters(function) if p.annotation is None]
            if function.returns is None and function.name != "__init__":
                missing.append("return")
            if public and missing:
                found.append(f"{module.path}:{function.lineno} {name}: {', '.join(missing)}")
    return found


RULES = {
    "circles of imports": lambda m: [" <-> ".join(group) for group in circles(m)],
    "imports upward": upward,
    "private names of other modules": private_names,
    "registrations by import": registrations,
    f"files over {FILE_LINES} lines": long_files,
    f"functions over {FUNCTION_LINES} lines of code": long_functions,
    f"more than {PARAMETERS} parameters that are no documented options": many_parameters,
    "public functions without types": untyped,
}


def main() -> int:
    """Print sizes and what breaks a rule; 1 where something does."""
    modules = read_package()
    by_folder: Counter[str] = Counter()
    for module in modules.values():
        parts = module.path.parts
        by_folder[parts[1] if len(parts) > 2 else "(top)"] += module.lines
    functions = sum(1 for m in modules.values() for _ in m.functions())
    for folder in ["(top)", *FLOORS, *sorted(set(by_folder) - {"(top)", *FLOORS})]:
        print(f"{folder:<16}{by_folder[folder]:>8,}")
    many = len(long_functions(modules, MANY_LINES))
    print(f"{PACKAGE}: {sum(by_folder.values()):,} lines in {len(modules)} files, {functions:,} functions, ", end="")
    print(f"{many} of them over {MANY_LINES} lines")
    broken = 0
    for rule, check in RULES.items():
        found = check(modules)
        broken += len(found)
        print(f"{rule}: {len(found)}")
        for line in found:
            print(f"    {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
