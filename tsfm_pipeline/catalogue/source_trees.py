"""Writes a definition's syntax tree as text in which every name is resolved, and lists what it
names.

What belongs here: writing syntax trees without the elements that cannot change a result. What does
not: what names mean (`source_names`), which definitions are followed and how their texts are used
(`code_digests`).
"""

import ast
import builtins
import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from tsfm_pipeline.catalogue.source_names import (
    LOCAL,
    Elsewhere,
    Key,
    Sources,
    Target,
    bound_names,
    is_text,
    parameters,
)

PLAIN_DECORATORS = frozenset(
    {
        "abc.abstractmethod",
        "classmethod",
        "contextlib.contextmanager",
        "functools.cache",
        "functools.cached_property",
        "functools.lru_cache",
        "property",
        "staticmethod",
    }
)
"""A method with only these decorators runs only when it is called by name."""
PLAIN_BASES = frozenset(
    {"abc.ABC", "enum.Enum", "typing.Generic", "typing.NamedTuple", "typing.Protocol"}
) | frozenset({"pydantic.BaseModel", "pydantic_settings.BaseSettings", *dir(builtins)})
"""Bases from other packages that call no method of a subclass by its name, except for special and
decorated methods."""


@dataclass
class Definition:
    """The text of one definition, and what it names."""

    key: Key
    text: str = ""
    references: list[Key] = field(default_factory=list)
    annotated: list[Key] = field(default_factory=list)
    attributes: set[str] = field(default_factory=set)
    members: dict[str, Key] = field(default_factory=dict)

    @cached_property
    def own(self) -> str:
        """Digest of the definition's own tree. It must be read only once the text is complete."""
        return sha256(f"{self.key.name} = {self.text}")


@dataclass
class _Scope:
    names: Mapping[str, Target]
    is_class: bool = False


class Reader:
    """Writes one definition's tree with its names resolved, and collects what it names."""

    def __init__(self, sources: Sources, key: Key, fields_left_out: Collection[str] = ()) -> None:
        self.sources, self.key, self.fields_left_out = sources, key, fields_left_out
        self.module = sources.module(key.module)
        self.scopes: list[_Scope] = []
        self.made = Definition(key)

    def read(self) -> list[Definition]:
        """Return the definition and, for a class, the definitions of those methods that are reached
        only by their names."""
        if "." in self.key.name:
            class_key = Key(self.key.module, self.key.name.split(".")[0])
            return Reader(self.sources, class_key, self.fields_left_out).read()
        statements = self.module.definitions[self.key.name]
        if len(statements) == 1 and isinstance(statements[0], ast.ClassDef):
            return self._class_and_members(statements[0])
        self.made.text = self._note(statements)
        return [self.made]

    def target(self, node: ast.expr) -> Target | None:
        """Return what a name or a chain of module attributes resolves to: LOCAL for a variable,
        None for anything else."""
        if isinstance(node, ast.Name):
            return self._look_up(node.id)
        if isinstance(node, ast.Attribute):
            base = self.target(node.value)
            if isinstance(base, Elsewhere) and base is not LOCAL:
                return (
                    self.sources.imported(base.name, node.attr)
                    if base.is_module
                    else Elsewhere(f"{base.name}.{node.attr}")
                )
        return None

    def _look_up(self, name: str) -> Target | None:
        for depth, scope in enumerate(reversed(self.scopes)):
            if name in scope.names and not (scope.is_class and depth):
                return scope.names[name]
        return self.sources.resolve(self.key.module, name)

    def _class_and_members(self, node: ast.ClassDef) -> list[Definition]:
        plain = is_plain(self.sources, self.key.module, node)
        fields = self.key.name not in self.fields_left_out
        members: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
        core: list[ast.stmt] = []
        for child in node.body:
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                if plain and not _is_special(child.name) and self._runs_by_name(child):
                    members.append(child)
                elif fields or _is_special(child.name):
                    core.append(child)
            elif fields or not isinstance(child, ast.AnnAssign):
                core.append(child)
        rest = ast.ClassDef(node.name, node.bases, node.keywords, core, node.decorator_list)
        self.made.text = self._note([rest])
        definitions: dict[Key, Definition] = {}
        for child in members:  # a property and its setter are one member
            key = Key(self.key.module, f"{self.key.name}.{child.name}")
            self.made.members[child.name] = key
            reader = Reader(self.sources, key)
            reader.made = definitions.get(key, reader.made)
            reader.scopes = [
                _Scope({name: LOCAL for name, _ in bound_names(node.body)}, is_class=True)
            ]
            reader.made.text += reader._note([child])
            definitions[key] = reader.made
        return [self.made, *definitions.values()]

    def _runs_by_name(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        for decorator in function.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            target = self.target(called)
            name = target.name if isinstance(target, Elsewhere) else ast.unparse(called)
            if name not in PLAIN_DECORATORS and not name.endswith((".setter", ".deleter")):
                return False
        return True

    def _note(self, statements: list[ast.stmt]) -> str:
        """Return the text of a definition. If it calls `getattr`, collect its strings as
        attributes, because they may name some.
        """
        nodes = [node for statement in statements for node in ast.walk(statement)]
        if any(isinstance(node, ast.Name) and node.id == "getattr" for node in nodes):
            strings = [
                node.value
                for node in nodes
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            ]
            self.made.attributes |= {text for text in strings if text.isidentifier()}
        return self._text(statements)

    # -- the tree as text; a method `_<type of node>` writes a type that needs special treatment

    def _text(self, node: object) -> str:
        if isinstance(node, list):
            texts = (self._text(child) for child in node if not _is_dropped(child))
            return f"[{','.join(filter(None, texts))}]"
        if not isinstance(node, ast.AST):
            return repr(node)
        special: Callable[[ast.AST], str] | None = getattr(self, f"_{type(node).__name__}", None)
        return special(node) if special else self._plain(node)

    def _plain(self, node: ast.AST, *left_out: str) -> str:
        # Fields that are absent, empty or only about layout differ between versions of Python.
        parts = {
            name: value
            for name, value in ast.iter_fields(node)
            if name not in ("ctx", "kind", "type_comment", *left_out)
        }
        written = [
            f"{name}={self._text(value)}"
            for name, value in parts.items()
            if value not in (None, [])
        ]
        return f"{type(node).__name__}({','.join(written)})"

    def _Constant(self, node: ast.Constant) -> str:
        return repr(node.value)

    def _Name(self, node: ast.Name) -> str:
        return self._resolved(self.target(node)) or f"Name({node.id})"

    def _Attribute(self, node: ast.Attribute) -> str:
        resolved = self._resolved(self.target(node))
        if resolved is not None:
            return resolved
        self.made.attributes.add(node.attr)
        return f"Attribute({self._text(node.value)},{node.attr})"

    def _resolved(self, target: Target | None) -> str | None:
        if target is None or target is LOCAL:
            return None
        if isinstance(target, Key):
            self.made.references.append(target)
            return f"@{target.name}"
        if target.is_module:
            self.made.references += self.sources.everything_in(target.name)
            return "@module"
        return f"Elsewhere({target.name})"

    def _arg(self, node: ast.arg) -> str:
        self._annotation(node.annotation)
        return node.arg

    def _FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
        self._annotation(node.returns)
        decorators, arguments = self._text(node.decorator_list), self._text(node.args)
        names: list[tuple[str, ast.Import | ast.ImportFrom | None]] = [
            (name, None) for name in parameters(node.args)
        ]
        with_body = self._inside([*names, *bound_names(node.body)], node.body)
        return f"{type(node).__name__}({node.name},{decorators},{arguments},{with_body})"

    _AsyncFunctionDef = _FunctionDef

    def _Lambda(self, node: ast.Lambda) -> str:
        arguments = self._text(node.args)
        inside = self._inside([(name, None) for name in parameters(node.args)], node.body)
        return f"Lambda({arguments},{inside})"

    def _ClassDef(self, node: ast.ClassDef) -> str:
        around = self._text(node.decorator_list), self._text(node.bases), self._text(node.keywords)
        inside = self._inside(list(bound_names(node.body)), node.body, is_class=True)
        return f"ClassDef({node.name},{','.join(around)},{inside})"

    def _comprehension_of(
        self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
    ) -> str:
        first = self._text(node.generators[0].iter)  # evaluated outside
        names = [binding for part in node.generators for binding in bound_names([part.target])]
        rest = self._inside(
            names,
            [
                child
                for child in ast.iter_child_nodes(node)
                if not isinstance(child, ast.comprehension)
            ],
        )
        parts: list[object] = []
        for i, part in enumerate(node.generators):
            parts += [part.target, *([] if i == 0 else [part.iter]), *part.ifs, part.is_async]
        return f"{type(node).__name__}({first},{self._inside(names, parts)},{rest})"

    _ListComp = _SetComp = _GeneratorExp = _DictComp = _comprehension_of

    def _inside(
        self,
        names: list[tuple[str, ast.Import | ast.ImportFrom | None]],
        node: object,
        is_class: bool = False,
    ) -> str:
        """Return a node's text in a new scope in which these names are bound."""
        bound: dict[str, Target] = {name: LOCAL for name, imported in names if imported is None}
        for imported in {id(child): child for _, child in names if child is not None}.values():
            bound |= {
                name: self.sources.imported(*source)
                for name, source in self.module.imports_of(imported)
            }
        self.scopes.append(_Scope(bound, is_class))
        text = self._text(node)
        self.scopes.pop()
        return text

    def _AnnAssign(self, node: ast.AnnAssign) -> str:
        if self.scopes and self.scopes[-1].is_class:
            kind = self._text(_unquoted(node.annotation))
            return f"Field({self._text(node.target)},{kind},{self._text(node.value)})"
        self._annotation(node.annotation)
        return self._plain(ast.Assign([node.target], node.value)) if node.value else ""

    def _Raise(self, node: ast.Raise) -> str:
        return f"Raise({self._text(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)})"

    def _Assert(self, node: ast.Assert) -> str:
        return self._plain(node, "msg")

    def _Call(self, node: ast.Call) -> str:
        target = self.target(node.func)
        if isinstance(target, Elsewhere) and target.name == "pydantic.Field":
            keywords = [keyword for keyword in node.keywords if keyword.arg != "description"]
            return self._plain(ast.Call(node.func, node.args, keywords))
        return self._plain(node)

    def _annotation(self, node: ast.expr | None) -> None:
        """Collect the names in an annotation, and drop its text."""
        if node is None:
            return
        reader = Reader(self.sources, self.key)
        reader.scopes = self.scopes
        reader._text(_unquoted(node))
        self.made.annotated += reader.made.references


def is_plain(sources: Sources, module: str, node: ast.ClassDef) -> bool:
    """Return whether a class has no base that may call its methods by their names."""
    for base in node.bases:
        target = Reader(sources, Key(module, node.name)).target(
            base.value if isinstance(base, ast.Subscript) else base
        )
        if isinstance(target, Key):
            definition = sources.module(target.module).definitions[target.name][0]
            if not (
                isinstance(definition, ast.ClassDef)
                and is_plain(sources, target.module, definition)
            ):
                return False
        elif (ast.unparse(base) if target is None else target.name) not in PLAIN_BASES:
            return False
    return True


def _is_special(name: str) -> bool:
    """Return whether a method runs without being called by name: `__init__`, and what pydantic
    looks up under `model_`.
    """
    return (name.startswith("__") and name.endswith("__")) or name.startswith("model_")


def _is_dropped(node: object) -> bool:
    """Return whether a statement is left out of digests: docstrings, and imports, because their
    names are resolved where they are used."""
    return is_text(node) or isinstance(node, ast.Import | ast.ImportFrom)


def _unquoted(annotation: ast.expr) -> ast.expr:
    """Return an annotation; if it is a quoted string, parse it first."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


def sha256(text: str) -> str:
    """Return the SHA-256 of a text, as 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()
