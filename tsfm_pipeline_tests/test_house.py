"""Test the rules of the house that no linter knows: which modules import which, and how a module
opens.

What belongs here: rules over the source text. What does not: behaviour. (Layers are checked by
import-linter, `make lint`.)
"""

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

from tsfm_pipeline.settings import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "tsfm_pipeline"
CONTRIBUTING = PROJECT_ROOT / "CONTRIBUTING.md"
MOST_LINES = 400
MODULES = sorted(PACKAGE.rglob("*.py"))
DAGSTER = {"dagster", "dagster_shared", "dagster_dg_cli"}
GLUE = (
    "defs/",
    "definitions.py",
    "pretraining/definitions.py",
    "studies/direction/definitions.py",
    "studies/policy_search/definitions.py",
    "studies/time_r1/definitions.py",
)
HEAVY = {
    *("torch", "numba", "timesfm", "faiss", "statsmodels", "matplotlib", "sklearn", "arch"),
    *("optuna", "transformers", "peft", "ray"),
}
MODULES_WITH_HEAVY_IMPORTS = (
    "forecaster/architecture.py",
    "forecaster/arithmetic.py",
    "forecaster/compiled_decoder.py",
    "forecaster/decoders.py",
    "forecaster/devices.py",
    "forecaster/engine.py",
    "forecaster/hidden.py",
    "forecaster/kernels.py",
    "forecaster/lag_llama.py",
    "forecaster/model.py",
    "forecaster/normalisation.py",
    "forecaster/products.py",
    "forecaster/torch_decoder.py",
    "pretraining/",
    "studies/direction/auc.py",
    "studies/direction/patchtst.py",
    "studies/direction/scorers/",
    "studies/direction/tuning_runs.py",
    "studies/direction/tuning_tasks.py",
    "studies/direction/yardstick.py",
    "studies/time_r1/adapters.py",
    "studies/time_r1/asking.py",
    "studies/time_r1/base_training.py",
    "studies/time_r1/corpus_windows.py",
    "studies/time_r1/decoding.py",
    "studies/time_r1/drawing.py",
    "studies/time_r1/grammar.py",
    "studies/time_r1/grip.py",
    "studies/time_r1/grip_loop.py",
    "studies/time_r1/grip_measures.py",
    "studies/time_r1/grip_pieces.py",
    "studies/time_r1/hub.py",
    "studies/time_r1/making_training.py",
    "studies/time_r1/own_policy.py",
    "studies/time_r1/placement.py",
    "studies/time_r1/policy.py",
    "studies/time_r1/policy_checks.py",
    "studies/time_r1/run_state.py",
    "studies/time_r1/sampling.py",
    "studies/time_r1/sequences.py",
    "studies/time_r1/tokenizer.py",
    "studies/time_r1/training.py",
    "studies/time_r1/warm_up.py",
)
"""Only imported inside of functions, or by their own command; what `definitions` reaches is tested
in `defs`.
"""


def relative(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


@cache
def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def imported(nodes: list[ast.stmt] | ast.AST) -> set[str]:
    """Modules imported by these statements, or anywhere below a node."""
    walked = ast.walk(nodes) if isinstance(nodes, ast.AST) else iter(nodes)
    names: set[str] = set()
    for node in walked:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def top_level(module: Path) -> list[ast.stmt]:
    """Statements that run on import, except those under `if TYPE_CHECKING`."""
    statements = list(tree(module).body)
    for node in tree(module).body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            statements += [*node.body, *node.orelse]
        elif isinstance(node, ast.Try):
            statements += [
                *node.body,
                *node.orelse,
                *node.finalbody,
                *(child for handler in node.handlers for child in handler.body),
            ]
    return statements


def test_every_module_opens_with_what_belongs_in_it() -> None:
    silent = [
        relative(module)
        for module in MODULES
        if tree(module).body and not ast.get_docstring(tree(module))
    ]
    assert silent == [], "a module opens with a sentence about what belongs in it"


def test_every_module_of_some_length_says_what_does_not_belong_in_it() -> None:
    boundary = ("does not", "do not", "not here", "nothing", "only", "elsewhere")
    long = [
        module for module in MODULES if len(module.read_text(encoding="utf-8").splitlines()) > 60
    ]
    texts = {
        relative(module): " ".join((ast.get_docstring(tree(module)) or "").lower().split())
        for module in long
    }
    silent = [
        module for module, text in texts.items() if not any(word in text for word in boundary)
    ]
    assert silent == [], "the docstring says what does not belong in the module"


def test_domain_packages_import_no_dagster() -> None:
    domain = [module for module in MODULES if not relative(module).startswith(GLUE)]
    assert [
        relative(module)
        for module in domain
        if {name.split(".")[0] for name in imported(tree(module))} & DAGSTER
    ] == []


def test_nothing_heavy_is_imported_at_the_top_of_a_module() -> None:
    light = [
        module for module in MODULES if not relative(module).startswith(MODULES_WITH_HEAVY_IMPORTS)
    ]
    assert [
        relative(module)
        for module in light
        if {name.split(".")[0] for name in imported(top_level(module))} & HEAVY
    ] == []


def test_annotations_that_dagster_reads_are_not_postponed() -> None:
    glue = [module for module in MODULES if relative(module).startswith(GLUE)]
    assert [relative(module) for module in glue if "__future__" in imported(tree(module))] == []


def test_no_error_is_swallowed() -> None:
    swallowed = []
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.ExceptHandler):
                caught = "" if node.type is None else ast.unparse(node.type)
                vanishes = all(isinstance(child, ast.Pass | ast.Continue) for child in node.body)
                raised = any(isinstance(child, ast.Raise) for child in ast.walk(node))
                if (caught in ("", "Exception", "BaseException") and not raised) or vanishes:
                    swallowed.append(f"{relative(module)}:{node.lineno}")
    assert swallowed == [], "name the errors that are expected, and do something about them"


def test_the_contract_about_studies_holds_for_every_room() -> None:
    contracts = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["tool"][
        "importlinter"
    ]["contracts"]
    (contract,) = [one for one in contracts if one["name"] == "Nothing imports a study"]
    rooms = {module.relative_to(PACKAGE).parts[0].removesuffix(".py") for module in MODULES} - {
        "__init__",
        "studies",
    }
    assert set(contract["source_modules"]) == {f"tsfm_pipeline.{room}" for room in rooms}


def test_randomness_comes_from_a_seed() -> None:
    unseeded = []
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                bare_generator = (
                    called.endswith("default_rng") and not node.args and not node.keywords
                )
                if (
                    bare_generator
                    or called == "hash"
                    or called.startswith(("random.", "np.random.seed"))
                ):
                    unseeded.append(f"{relative(module)}:{node.lineno}")
    assert unseeded == [], (
        "a seeded numpy Generator, and no hash(), which differs between processes"
    )


def test_seeds_and_numbers_of_resamples_come_from_the_settings() -> None:
    """No literal where a generator is seeded or a resampling function called, and no constant
    beside the settings.

    The trainer has its own options (`pretraining`), and the profiles are a table without chance.
    """
    statistics = [
        PACKAGE / "evaluation" / f"{name}.py" for name in ("statistics", "headroom", "quality")
    ]
    resampling = {"compared", "_compared", "default_rng", "SeedSequence", "draw_tenants"}
    defaults = []
    for node in (node for module in statistics for node in ast.walk(tree(module))):
        if isinstance(node, ast.FunctionDef):
            arguments = node.args.args[::-1]
            own = {argument.arg for argument in arguments} & {"n_draws", "n_permutations", "seed"}
            with_default = {argument.arg for argument in arguments[: len(node.args.defaults)]}
            defaults += [f"{node.name}({name})" for name in own & with_default]
            resampling |= {node.name} if own else set()
    literal = []
    for module in MODULES:
        if relative(module).startswith("pretraining/"):
            continue
        for node in ast.walk(tree(module)):
            where = f"{relative(module)}:{getattr(node, 'lineno', 0)}"
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func).rpartition(".")[2] in resampling
            ):
                given = [*node.args, *(keyword.value for keyword in node.keywords)]
                literal += [where] * any(
                    isinstance(child, ast.Constant) and isinstance(child.value, int)
                    for child in given
                )
                below = [
                    child
                    for argument in given
                    for child in ast.walk(argument)
                    if isinstance(child, ast.Constant)
                ]
                literal += [where] * any(
                    isinstance(child.value, int) and child.value >= 100 for child in below
                )
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = {
                    child.id
                    for target in targets
                    for child in ast.walk(target)
                    if isinstance(child, ast.Name)
                }
                literal += [where] * any(
                    name.endswith(("DRAWS", "PERMUTATIONS", "SWAPS", "SEED")) for name in names
                )
    assert defaults == [], "a default would be a second setting"
    assert literal == [], "settings.EvaluationSettings has these numbers"


def test_the_public_names_of_the_design_are_where_it_says() -> None:
    from tsfm_pipeline.autoresearch import AutoresearchEngine
    from tsfm_pipeline.forecaster import ForecastConfig, Panel, load_forecaster

    assert all(
        callable(name) for name in (AutoresearchEngine, ForecastConfig, Panel, load_forecaster)
    )


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    named = set(re.findall(r"^\| `([\w/]+\.py)` \|", CONTRIBUTING.read_text(), flags=re.MULTILINE))
    lengths = {relative(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name for name, n_lines in lengths.items() if n_lines > MOST_LINES} == named, (
        "split it, or give the reason in CONTRIBUTING.md"
    )
