"""Digests of the code behind a function: of every definition that it reaches by name within the
package.

What belongs here: what is reached, and its digest. What does not: what names mean (`source_names`),
what a definition says (`source_trees`), which functions make which tables and what a moved digest
means (`tables_lock`). Nothing that is read is imported.

What is reached. A definition is a function, a class or a constant at the top of a module. It
reaches every definition that it names: directly, through any import (at the top, inside a function,
under TYPE_CHECKING, relative, with another name), as an attribute of an imported module, or in an
annotation, because what is passed as an argument is known by its type alone. Dictionaries and
tuples of functions or classes (the registries) reach what they hold. A definition whose decorator
names another one of the same module is reached with that one: that is how functions register
themselves. Statements of a module that bind no name (a loop that registers operators) run on import
and are reached with any definition of their module.

Methods. Whose method `x.mean()` calls cannot be resolved by name. A reached class contributes its
bases, its fields, its special and its decorated methods (validators run unasked), and of the other
methods those whose name occurs as an attribute in anything that is reached. A class under a base
from elsewhere, which may call its methods by name (`forward`, `visit_*`), is taken whole.

What the digest holds of a definition is its syntax tree, without what changes no result:
docstrings, comments, line numbers, annotations outside of classes (in a class they are fields,
which pydantic converts by), the messages of errors and assertions, and the descriptions of pydantic
fields. Names are written as what they resolve to: a definition of the package by its own name,
without its module, and with a digest of its tree, so that two definitions of the same name are told
apart; anything else by its full name, so that `np.mean` under another alias is the same and another
function under the same alias is not. Moving a definition, renaming a module and rewriting imports
therefore change no digest. Renaming a definition, or splitting one, does.

Not seen: what is called by a name that is computed (a function that calls `getattr` counts its
string constants as attributes), what another module registers or a plug-in brings, an error's
message where that is caught and kept, and the code of other packages.
"""

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping

from tsfm_pipeline.catalogue.source_names import ON_IMPORT, Key, Sources
from tsfm_pipeline.catalogue.source_trees import Definition, Reader, sha256


class Package:
    """A package's source text, read definition by definition as it is asked for.

    sources: path below the folder that holds the package (`tsfm_pipeline/lake.py`) -> text, of
    every module. left_out: names of definitions that are not followed; `fields_left_out`: of
    classes of which fields and validators are not read.
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
        """Digest of everything that these functions reach, each given as `module:function` or
        `module:Class.method`.

        Raises ValueError for a function that is not there, with its name.
        """
        reached = self.reached(functions)
        lines = sorted({self._line(self.definition(key)) for key in reached})
        return sha256("\n".join(lines))[:16]

    def reached(self, functions: Iterable[str]) -> set[Key]:
        """Everything that these functions reach, themselves included."""
        waiting = [self.find(function) for function in functions]
        waiting += [Key(key.module, key.name.split(".")[0]) for key in waiting if "." in key.name]
        found: set[Key] = set()
        attributes: set[str] = set()
        members: dict[str, list[Key]] = {}
        while waiting:
            key = waiting.pop()
            if key in found or key.name in self.left_out:
                continue
            found.add(key)
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
        return found

    def find(self, function: str) -> Key:
        """The definition of `module:function` or `module:Class.method`. Raises ValueError where
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
        """What a definition says."""
        if key not in self._definitions:
            for made in Reader(self._sources, key, self.fields_left_out).read():
                self._definitions[made.key] = made
        return self._definitions[key]

    def _classes(self, annotated: Iterable[Key]) -> Iterator[Key]:
        """The classes that annotations name, themselves or through an alias of a type."""
        for key in annotated:
            if isinstance(self._sources.module(key.module).definitions[key.name][0], ast.ClassDef):
                yield key
            elif key.name not in self.left_out:
                yield from self._classes(
                    other for other in self.definition(key).references if other != key
                )

    def _registered(self, key: Key) -> list[Key]:
        """Definitions of the same module whose decorators name this one."""
        return [
            Key(key.module, name)
            for name, names in self._sources.module(key.module).decorated.items()
            if key.name in names
        ]

    def _line(self, definition: Definition) -> str:
        """A definition as it enters a digest: its own tree, and the trees of what it names, in the
        order in which it names them."""
        own = [
            self.definition(key).own
            for key in definition.references
            if key.name not in self.left_out
        ]
        return f"{definition.key.name} {sha256(' '.join([definition.own, *own]))}"
