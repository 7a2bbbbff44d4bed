"""Test which edits of source text change the digest of a function: only those of code that it
reaches by name.

What belongs here: digests over a small package that is written out. What does not: the tables of
this repository (`test_tables_lock`).
"""

from textwrap import dedent

import pytest

from tsfm_pipeline.catalogue.code_digests import Package

TEXTS = {
    "shop/__init__.py": '"""A package."""\n',
    "shop/prices.py": '''
        """Prices."""

        import numpy as np
        from pydantic import BaseModel, Field

        RATE = 0.19
        UNUSED = 1

        def with_tax(price: float) -> float:
            """The price with tax."""
            if price < 0:
                raise ValueError(f"price is {price}")
            return np.round(price * (1 + RATE), 2)  # to the cent

        def idle(price):
            return price

        class Basket(BaseModel):
            items: tuple[float, ...] = Field((), description="what is in it")

            def total(self) -> float:
                return sum(self.items)

            def report(self) -> str:
                return f"{self.total()} in {len(self.items)} items"

        class Rule:
            def apply(self, basket: "Basket") -> float:
                raise NotImplementedError

        class Half(Rule):
            def apply(self, basket):
                return basket.total() / 2

        RULES = {"half": Half}
        ''',
    "shop/orders.py": '''
        """Orders."""

        from typing import TYPE_CHECKING

        from shop import prices as p
        from shop.prices import RULES

        if TYPE_CHECKING:
            from shop.prices import Basket

        def order(basket: "Basket", rule):
            from shop.prices import with_tax as taxed

            cost = RULES[rule]().apply(basket)
            return taxed(cost)

        def counted(prices):
            idle = [price for price in prices]
            return len(idle), p.RATE
        ''',
}
SOURCES = {path: dedent(text) for path, text in TEXTS.items()}


def digest(sources: dict[str, str], function: str = "shop.orders:order") -> str:
    return Package(sources).digest([function])


def edited(path: str, old: str, new: str) -> dict[str, str]:
    assert SOURCES[path].count(old) >= 1, f"{old!r} is not in {path}"
    return SOURCES | {path: SOURCES[path].replace(old, new)}


REACHED = {
    "a constant": ("RATE = 0.19", "RATE = 0.07"),
    "a function imported inside of another under another name": (
        "price * (1 + RATE)",
        "price + price * RATE",
    ),
    "a function of another package": ("np.round", "np.floor"),
    "the same name from another package": ("import numpy as np", "import numpy.ma as np"),
    "what a registry holds": ("basket.total() / 2", "basket.total() / 3"),
    "a registry": ('{"half": Half}', '{"half": Half, "none": Rule}'),
    "a method that is called on an argument": ("sum(self.items)", "max(self.items)"),
    "a field of an argument's class": ("items: tuple[float, ...]", "items: tuple[int, ...]"),
    "a default": ("Field((), ", "Field((1.0,), "),
    "which error is raised": ("raise ValueError", "raise TypeError"),
}
NOT_REACHED = {
    "another constant": ("UNUSED = 1", "UNUSED = 2"),
    "another function": ("return price\n", "return 2 * price\n"),
    "a method that nothing calls": ("{self.total()} in", "{self.total()} for"),
    "a docstring": ('"""The price with tax."""', '"""Tax comes on top."""'),
    "a comment": ("  # to the cent", ""),
    "layout": ("price * (1 + RATE), 2", "price*(\n        1 + RATE), 2"),
    "a function's annotations": ("def with_tax(price: float) -> float", "def with_tax(price)"),
    "the message of an error": ("price is {price}", "a price is not negative"),
    "the description of a field": ("what is in it", "its contents"),
    "another package's alias": ("np", "numpy"),
}


@pytest.mark.parametrize("edit", REACHED)
def test_an_edit_of_what_is_reached_moves_the_digest(edit: str) -> None:
    assert digest(edited("shop/prices.py", *REACHED[edit])) != digest(SOURCES)


@pytest.mark.parametrize("edit", NOT_REACHED)
def test_any_other_edit_of_the_same_module_does_not(edit: str) -> None:
    after = edited("shop/prices.py", *NOT_REACHED[edit])
    if edit == "another package's alias":
        after["shop/prices.py"] = after["shop/prices.py"].replace(
            "import numpy as numpy", "import numpy"
        )
    assert digest(after) == digest(SOURCES)


def test_a_local_variable_is_not_the_function_of_the_same_name() -> None:
    package = Package(SOURCES)
    assert {key.name for key in package.reached(["shop.orders:counted"])} == {"counted", "RATE"}


def test_a_renamed_module_changes_nothing() -> None:
    renamed = {
        path.replace("shop/prices", "shop/money/costs"): text.replace(
            "shop.prices", "shop.money.costs"
        ).replace("from shop import prices as p", "import shop.money.costs as p")
        for path, text in SOURCES.items()
    }
    renamed["shop/money/__init__.py"] = ""
    for function in ("shop.orders:order", "shop.orders:counted"):
        assert digest(renamed, function) == digest(SOURCES, function)


def test_a_function_that_moves_to_another_module_changes_nothing() -> None:
    start = SOURCES["shop/prices.py"].index("def with_tax")
    stop = SOURCES["shop/prices.py"].index("def idle")
    text = SOURCES["shop/prices.py"]
    moved = SOURCES | {
        "shop/prices.py": text[:start] + text[stop:],
        "shop/tax.py": "from numpy import round as rounded\nfrom .prices import RATE\n\n"
        + text[start:stop].replace("np.round", "rounded"),
        "shop/orders.py": SOURCES["shop/orders.py"].replace(
            "from shop.prices import with_tax as taxed", "from shop.tax import with_tax as taxed"
        ),
    }
    assert digest(moved) == digest(SOURCES)


def test_two_definitions_of_one_name_are_told_apart() -> None:
    text = (
        "from shop.a import f\nfrom shop.b import f as g\n\n\ndef first():\n    return f(1) - "
        "g(2)\n"
    )
    sources = {
        "shop/__init__.py": "",
        "shop/a.py": "def f(x):\n    return x + 1\n",
        "shop/b.py": "def f(x):\n    return x + 2\n",
        "shop/use.py": text,
    }
    swapped = sources | {"shop/use.py": text.replace("f(1) - g(2)", "g(1) - f(2)")}
    assert digest(sources, "shop.use:first") != digest(swapped, "shop.use:first")


def test_what_a_module_registers_on_import_is_reached() -> None:
    text = dedent(
        """
        KNOWN = {}

        def known(name):
            return lambda function: KNOWN.setdefault(name, function)

        def make(name):
            return KNOWN[name]()

        @known("one")
        def one():
            return 1

        for name in ("two", "three"):
            known(name)(lambda: 2)
        """
    )
    assert digest({"shop/__init__.py": text}, "shop:make") != digest(
        {"shop/__init__.py": text.replace("lambda: 2", "lambda: 3")}, "shop:make"
    )
    called = text.replace("return KNOWN[name]()", "return known(name)")
    assert digest({"shop/__init__.py": called}, "shop:make") != digest(
        {"shop/__init__.py": called.replace("return 1", "return 4")}, "shop:make"
    )


def test_a_package_that_imports_its_own_modules_reaches_what_they_hold() -> None:
    own = (
        "from shop import fruit\n\nPRICES = {**fruit.PRICES}\n\n\ndef price(name):\n    return "
        "PRICES[name]\n"
    )
    sources = {"shop/__init__.py": own, "shop/fruit.py": 'PRICES = {"plum": 2}\n'}
    dearer = sources | {"shop/fruit.py": 'PRICES = {"plum": 3}\n'}
    assert digest(sources, "shop:price") != digest(dearer, "shop:price")


def test_what_is_left_out_is_not_followed() -> None:
    after = edited("shop/prices.py", "RATE = 0.19", "RATE = 0.07")
    assert Package(after, left_out={"RATE"}).digest(["shop.orders:order"]) == Package(
        SOURCES, left_out={"RATE"}
    ).digest(["shop.orders:order"])
    fields = edited("shop/prices.py", "Field((), ", "Field((1.0,), ")
    without = [
        Package(sources, fields_left_out={"Basket"}).digest(["shop.orders:order"])
        for sources in (SOURCES, fields)
    ]
    assert without[0] == without[1]


@pytest.mark.parametrize(
    "function", ["shop.orders:reorder", "shop.returns:order", "shop.prices:Basket.price"]
)
def test_a_function_that_is_not_there_is_named(function: str) -> None:
    with pytest.raises(ValueError, match=f"'{function}' is not defined"):
        digest(SOURCES, function)


def test_a_name_that_is_imported_from_where_it_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shop\.prices has no 'RULES'"):
        digest(edited("shop/prices.py", 'RULES = {"half": Half}', ""))
