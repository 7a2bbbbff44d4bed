"""A recipe that runs in seconds, with an untrained policy of small size."""

from pathlib import Path
from typing import Any

import yaml

from tsfm_pipeline.settings import Settings
from tsfm_pipeline.studies.time_r1.own_policy import OwnShape, new_policy, save_policy

SHAPE = OwnShape(hidden=16, layers=1, heads=2, key_value_heads=1, feed_forward=16)
PROFILE = {
    "codec": "number",
    "prompt": "own",
    "lora": {"rank": 2},
    "warm_up": {"batch": 16},
    "grip": {"group": 2, "oversampling": 2, "questions": 2, "steps": 2, "validate_every": 2},
}
RECIPE = {
    "title": "A small recipe",
    "profile": "small",
    "train": ["small_corpus"],
    "evaluate": ["small_corpus", "ETTm2"],
    "contexts": [96],
    "horizon": 8,
    "train_windows": 24,
    "validation_windows": 8,
    "test_windows": 6,
    "timed_requests": 1,
    "draws": 100,
}
CORPUS = {
    "kind": "corpus",
    "title": "A little of the corpus",
    "licence": "MIT",
    "seed": 5,
    "blocks": 1,
    "block_series": 4,
    "length": 1024,
    "season": 24,
    "horizon": 8,
    "split": {"shares": [0.7, 0.1, 0.2]},
}


def write_recipe(data: Path, **changes: Any) -> Settings:
    """Write the recipe `small`, its profile, its data sets and its base into a data folder.

    changes: fields of the recipe.
    """
    own, base = data / "time_r1", data / "base"
    (own / "recipes").mkdir(parents=True)
    save_policy(new_policy(0, SHAPE), base, {"name": "small", "licence": "MIT"})
    (own / "recipes" / "small.yaml").write_text(yaml.safe_dump({**RECIPE, **changes}))
    (own / "profiles.yaml").write_text(yaml.safe_dump({"small": {**PROFILE, "model": str(base)}}))
    (own / "datasets.yaml").write_text(yaml.safe_dump({"small_corpus": CORPUS}))
    return Settings(data_dir=data)
