"""Resolves the names in a package's source text: to a definition, a module, or something outside of
the package.

What belongs here: the names that each module binds, and following a name through imports to its
definition. What does not: the text of a definition (`source_trees`). The source text is parsed,
never imported.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ON_IMPORT = "<on import>"
"""The name of the statements that a module runs on import without binding a name."""


class Key(NamedTuple):
    """A definition: its module, and its name there (`Fleet`, `Fleet.values`)."""

    module: str
    name: str


@dataclass(frozen=True)
class Elsewhere:
    """A name that resolves to something outside of the package, or to one of the package's
    modules."""

    name: str
    is_module: bool = False


Target = Key | Elsewhere
LOCAL = Elsewhere("")
"""What a parameter or local variable of a function resolves to."""


class Sources:
    """A package's modules; each is parsed when it is first needed.

    texts: the text of every module, by its path below the folder that holds the package
    (`tsfm_pipeline/lake.py`).
    """

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = {_module_name(path): (path, text) for path, text in texts.items()}
        self._modules: dict[str, ModuleNames] = {}

    def __contains__(self, module: str) -> bool:
        return module in self._texts

    def module(self, name: str) -> "ModuleNames":
        """Return the names of a module."""
        if name not in self._modules:
            path, text = self._texts[name]
            self._modules[name] = _read_names(name, text, is_package=path.endswith("__init__.py"))
        return self._modules[name]

    def resolve(self, module: str, name: str) -> Target | None:
        """Return what a name means at the top of a module, or None if the module has no such name.
        Raises ValueError for broken imports."""
        names = self.module(module)
        if name in names.definitions:
            return Key(module, name)
        if name in names.imports:
            own = f"{module}.{name}"
            if names.imports[name] == (module, name) and own in self:  # its own module
                return Elsewhere(own, is_module=True)
            return self.imported(*names.imports[name])
        return None

    def imported(self, module: str, name: str | None) -> Target:
        """Return what `import module` (no name) or `from module import name` binds. Raises
        ValueError if the module has no such name.
        """
        if module not in self:
            return Elsewhere(module if name is None else f"{module}.{name}")
        if name is None:
            return Elsewhere(module, is_module=True)
        target = self.resolve(module, name)
        if target is None and f"{module}.{name}" in self:
            return Elsewhere(f"{module}.{name}", is_module=True)
        if target is None:
            raise ValueError(
                f"{module} has no {name!r}, which is imported from there or read as its attribute"
            )
        return target

    def everything_in(self, module: str) -> list[Key]:
        """Return every definition of a module, for a module that is passed on as an object."""
        return [Key(module, name) for name in self.module(module).definitions]


def read_sources(package: Path) -> dict[str, str]:
    """Return the text of every module in a package's folder, by its path relative to the folder
    that holds the package."""
    paths = sorted(package.rglob("*.py"))
    return {
        path.relative_to(package.parent).as_posix(): path.read_text(encoding="utf-8")
        for path in paths
    }


class ModuleNames:
    """The names at the top of a module, and the statements that bind each of them; `whole`: the
    modules of `import a.b`, which binds `a` alone.
    """

    def __init__(self, name: str, tree: ast.Module, is_package: bool) -> None:
        self.name, self.is_package = name, is_package
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.imports: dict[str, tuple[str, str | None]] = {}
        self.whole: set[str] = set()
        self.decorated: dict[str, set[str]] = {}
        self.on_import: list[ast.stmt] = []
        for statement in tree.body:
            self._add(statement)
        if self.on_import:
            self.definitions[ON_IMPORT] = self.on_import

    def imports_of(
        self, node: ast.Import | ast.ImportFrom
    ) -> Iterator[tuple[str, tuple[str, str | None]]]:
        """Yield each name that an import binds, with the module and the name in it that it stands
        for.
        """
        for alias in node.names:
            if isinstance(node, ast.Import):
                bound = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )  # `import a.b` binds a
                yield alias.asname or bound, (bound, None)
            elif alias.name == "*":
                raise ValueError(
                    f"{self.name}: 'from ... import *' hides which names are meant; import them "
                    "by name"
                )
            else:
                yield alias.asname or alias.name, (self._source_of(node), alias.name)

    def _source_of(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        above = self.name.split(".")[: len(self.name.split(".")) - node.level + self.is_package]
        return ".".join([*above, *([node.module] if node.module else [])])

    def _add(self, statement: ast.stmt) -> None:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self.imports |= self.imports_of(statement)
            if isinstance(statement, ast.Import):
                self.whole |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            for child in (*statement.body, *statement.orelse):
                self._add(child)
        elif isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
            return  # runs as a program, not on import
        elif not is_text(statement):
            self._bind(statement)

    def _bind(self, statement: ast.stmt) -> None:
        bound = [name for name, imported in bound_names([statement]) if imported is None]
        self.imports |= dict(
            binding
            for _, node in bound_names([statement])
            if node
            for binding in self.imports_of(node)
        )
        changed = [name for name in _changed(statement) if name in self.definitions]
        for name in dict.fromkeys([*bound, *changed]):
            self.definitions.setdefault(name, []).append(statement)
        if not (bound or changed) or isinstance(statement, ast.For | ast.While | ast.With):
            self.on_import.append(statement)
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            decorators = [
                node for decorator in statement.decorator_list for node in ast.walk(decorator)
            ]
            self.decorated[statement.name] = {
                node.id for node in decorators if isinstance(node, ast.Name)
            }


def parameters(arguments: ast.arguments) -> list[str]:
    """Return the names of a function's parameters."""
    rest = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    return [
        argument.arg
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *rest)
    ]


def bound_names(
    nodes: Iterable[ast.AST],
) -> Iterator[tuple[str, ast.Import | ast.ImportFrom | None]]:
    """Yield the names that these nodes bind in their own scope. An import is yielded as a node,
    with an empty name."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield "", node
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, None
        elif isinstance(node, ast.Lambda):
            continue
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            yield from (
                (child.target.id, None)
                for child in ast.walk(node)
                if isinstance(child, ast.NamedExpr)
            )
        else:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id, None
            elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
                yield node.name, None
            elif isinstance(node, ast.MatchMapping) and node.rest:
                yield node.rest, None
            yield from bound_names(ast.iter_child_nodes(node))


def is_text(statement: object) -> bool:
    """Return whether a statement is only a string: the docstring of a module, class, function or
    constant."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _changed(statement: ast.stmt) -> Iterator[str]:
    """Yield the names whose objects are changed by an assignment to an item or attribute: `X[...] =
    ...`, `X.a = ...`."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    for node in ast.walk(statement):
        if (
            isinstance(node, ast.Attribute | ast.Subscript)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
        ):
            yield node.value.id


def _module_name(path: str) -> str:
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _read_names(name: str, text: str, is_package: bool) -> ModuleNames:
    return ModuleNames(name, ast.parse(text), is_package)
