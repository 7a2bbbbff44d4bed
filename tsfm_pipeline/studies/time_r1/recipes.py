"""Recipes and profiles as files: what a run trains on, what it is asked, and which policy it uses.

What belongs here: finding and reading the files. What does not: their fields (`options`), and data
sets (`datasets`).

Shipped files are in `data/time_r1/` of the distribution. The user's own folder `time_r1`, beside
that of the fleet files, counts where both have the same name: recipes file by file, profiles one by
one.
"""

from pathlib import Path

import yaml
from pydantic import ValidationError

from tsfm_pipeline.distribution import packaged
from tsfm_pipeline.settings import Settings
from tsfm_pipeline.spec_files import SpecFiles, SpecKinds
from tsfm_pipeline.studies.time_r1.options import Profile, Recipe

FOLDER = "time_r1"
PROFILES_FILE = "profiles.yaml"


class RecipeError(ValueError):
    """A recipe or a profile that cannot be used."""


RECIPES: SpecKinds[Recipe] = SpecKinds(noun="recipe", models={"": Recipe}, error=RecipeError)


def folders(settings: Settings) -> tuple[Path, ...]:
    """Return the study's folders of files: the shipped one, and the user's own if there is one."""
    shipped = packaged(f"data/{FOLDER}")
    own = settings.fleet_specs_dir.with_name(FOLDER)
    return (shipped, own) if own != shipped and own.is_dir() else (shipped,)


def recipe_files(settings: Settings) -> SpecFiles[Recipe]:
    """Find the recipes; read none of them."""
    found = (folder / "recipes" for folder in folders(settings))
    return RECIPES.find(*(folder for folder in found if folder.is_dir()))


def profile(settings: Settings, name: str) -> Profile:
    """Return a profile by its name in `profiles.yaml`.

    Raises RecipeError, which names the file, the field and what is allowed, if the file is not
    valid or has no such profile.
    """
    known: dict[str, Profile] = {}
    for folder in folders(settings):
        path = folder / PROFILES_FILE
        if path.is_file():
            known |= _profiles(path)
    if name not in known:
        raise RecipeError(f"no profile {name!r}; there are: {', '.join(sorted(known))}")
    return known[name]


def _profiles(path: Path) -> dict[str, Profile]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise RecipeError(f"{path}: must be a mapping from names of profiles to their fields")
    found = {}
    for name, fields in document.items():
        try:
            found[str(name)] = Profile.model_validate(fields)
        except ValidationError as error:
            wrong = error.errors()[0]
            where = ".".join(map(str, (name, *wrong["loc"])))
            raise RecipeError(f"{path}: field {where!r}: {wrong['msg']}") from error
    return found
