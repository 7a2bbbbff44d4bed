"""Digests of the code behind a function: of every definition in the package that it reaches by
name.

What belongs here: finding the definitions that a function reaches, and their digest. What does not:
what names mean (`source_names`), the text of a definition (`source_trees`), which functions make
which tables, and what follows when a digest changes (`tables_lock`). The source text is parsed,
never imported.

What is reached. A definition is a function, a class or a constant at the top of a module. It
reaches every definition that it names: directly, through any import (at the top, inside a function,
under TYPE_CHECKING, relative, with another name), as an attribute of an imported module, or in an
annotation, because the type is all that is known of an argument. A dictionary or tuple of functions
or classes (a registry) reaches its entries. If a decorator names a definition of the same module,
the decorated function is reached together with that definition, because functions register
themselves in this way. Statements of a module that bind no name (a loop that registers operators)
run on import, so any definition of the module reaches them.

Methods. Names alone do not say which class's method `x.mean()` calls. A reached class therefore
contributes its bases, its fields, its special methods and its decorated methods (validators run
without being called by name). It contributes another method only if the method's name occurs as an
attribute in reached code. A class with a base from another package is included whole, because that
base may call its methods by name (`forward`, `visit_*`).

The digest covers a definition's syntax tree, except for the elements that cannot change a result:
docstrings, comments, line numbers, annotations outside of classes (inside a class they are fields,
and pydantic converts values by them), the messages of errors and assertions, and the descriptions
of pydantic fields. Names are replaced by what they resolve to. A definition of the package appears
under its own name, without its module, together with a digest of its tree, so that two definitions
of the same name differ. Anything else appears under its full name: `np.mean` under another alias is
the same, another function under the same alias is not. Moving a definition, renaming a module and
rewriting imports therefore change no digest. Renaming or splitting a definition does.

The digest misses calls by a computed name (in a function that calls `getattr`, string constants
count as attributes), what other modules or plugins register, an error's message that is caught and
stored, and the code of other packages.
"""

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping

from tsfm_pipeline.catalogue.source_names import ON_IMPORT, Key, Sources
from tsfm_pipeline.catalogue.source_trees import Definition, Reader, sha256


class Package:
    """A package's source text; each definition is read when it is first needed.

    sources: the text of every module, by its path below the folder that holds the package
    (`tsfm_pipeline/lake.py`). left_out: names of definitions that are not followed.
    fields_left_out: names of classes whose fields and validators are not read.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        left_out: Collection[str] = (),
        fields_left_out: Collection[str] = (),
    ) -> None:
        self.left_out, self.fields_left_out = frozenset(left_out), frozenset(fields_left_out)
        self._sources = Sources(sources)
        self._definitions: dict[Key, Definition] = {}

    def digest(self, functions: Iterable[str]) -> str:
        """Return the digest of everything that these functions reach. Each is given as
        `module:function` or `module:Class.method`.

        Raises ValueError, with the name, for a function that does not exist.
        """
        reached = self.reached(functions)
        lines = sorted({self._line(self.definition(key)) for key in reached})
        return sha256("\n".join(lines))[:16]

    def own_digests(self, functions: Iterable[str]) -> dict[str, str]:
        """Return the digest of each definition that these functions reach, without those that it
        names in turn, by `module:name`; of two states they tell which definition changed.

        Raises as `digest` does.
        """
        reached = sorted(self.reached(functions))
        return {f"{key.module}:{key.name}": self.definition(key).own[:16] for key in reached}

    def functions(self, module: str) -> list[str]:
        """Return everything that a module defines, as `digest` takes it. Raises ValueError for an
        unknown module.
        """
        if module not in self._sources:
            raise ValueError(f"there is no module {module!r} in the package")
        keys = self._sources.everything_in(module)
        return [f"{key.module}:{key.name}" for key in keys if key.name != ON_IMPORT]

    def reached(self, functions: Iterable[str]) -> set[Key]:
        """Return everything that these functions reach, including themselves."""
        waiting = [self.find(function) for function in functions]
        waiting += [Key(key.module, key.name.split(".")[0]) for key in waiting if "." in key.name]
        reached: set[Key] = set()
        attributes: set[str] = set()
        members: dict[str, list[Key]] = {}
        while waiting:
            key = waiting.pop()
            if key in reached or key.name in self.left_out:
                continue
            reached.add(key)
            definition, module = self.definition(key), self._sources.module(key.module)
            waiting += [
                *definition.references,
                *self._classes(definition.annotated),
                *self._registered(key),
            ]
            if module.on_import:
                waiting.append(Key(key.module, ON_IMPORT))
            for name, member in definition.members.items():
                members.setdefault(name, []).append(member)
            attributes |= definition.attributes
            for name in attributes & members.keys():
                waiting += members.pop(name)
        return reached

    def find(self, function: str) -> Key:
        """Return the definition of `module:function` or `module:Class.method`. Raises ValueError if
        there is none."""
        module, _, name = function.partition(":")
        if module in self._sources:
            head, _, method = name.partition(".")
            target = self._sources.resolve(module, head)
            if isinstance(target, Key):
                key = Key(target.module, name)
                if not method or key in self.definition(target).members.values():
                    return key
        raise ValueError(
            f"{function!r} is not defined; give module:function or module:Class.method as they "
            "are in the package"
        )

    def definition(self, key: Key) -> Definition:
        """Return the text of a definition and what it names."""
        if key not in self._definitions:
            for definition in Reader(self._sources, key, self.fields_left_out).read():
                self._definitions[definition.key] = definition
        return self._definitions[key]

    def _classes(self, annotated: Iterable[Key]) -> Iterator[Key]:
        """Yield the classes that annotations name, directly or through a type alias."""
        for key in annotated:
            if isinstance(self._sources.module(key.module).definitions[key.name][0], ast.ClassDef):
                yield key
            elif key.name not in self.left_out:
                yield from self._classes(
                    other for other in self.definition(key).references if other != key
                )

    def _registered(self, key: Key) -> list[Key]:
        """Return the definitions of the same module whose decorators name this one."""
        return [
            Key(key.module, name)
            for name, names in self._sources.module(key.module).decorated.items()
            if key.name in names
        ]

    def _line(self, definition: Definition) -> str:
        """Return the line that a definition adds to a digest: its own tree, then the trees of the
        definitions that it names, in the order in which it names them."""
        own = [
            self.definition(key).own
            for key in definition.references
            if key.name not in self.left_out
        ]
        return f"{definition.key.name} {sha256(' '.join([definition.own, *own]))}"
