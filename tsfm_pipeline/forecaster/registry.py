"""Sources of checkpoints, and the checks that the loaded checkpoint is the intended one.

What belongs here: the registered checkpoints, local directories, downloads, digests, licences,
stages, and the check that tensors fit an architecture. What does not: the use of the tensors
(`model`), and training (`pretraining`). Weights are read only from safetensors files, because
opening a pickled file runs code. Importing this module does not import torch.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tsfm_pipeline.distribution import packaged

if TYPE_CHECKING:
    import torch

    from tsfm_pipeline.forecaster.architecture import Architecture

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
CARD_FILE = "MODEL_CARD.md"
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
DEFAULT_CONTEXT_LIMIT = 16_384
N_LISTED = 8


Stage = Literal["candidate", "promoted"]
"""Of a checkpoint that a study trained. candidate: written, and used by nothing. promoted: its
study's gate found that it does what it is for, so that it may take the place of the shipped one."""


class CheckpointError(ValueError):
    """A checkpoint that is absent, unsafe, altered, or of another architecture."""


class CheckpointEntry(BaseModel):
    """A registered checkpoint: on the hub (`hub_id`) or in the project (`path`).

    revision, sha256: None means not pinned; the hub's current file is then accepted and its digest
    recorded. The digest of a checkpoint in the project is in its config.json.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    hub_id: str | None = None
    path: Path | None = None
    revision: str | None = None
    sha256: str | None = None
    licence: str
    dims: dict[str, int] | None = Field(
        default=None, description="fields of `Architecture`; None: read from its config.json"
    )


class StagedCheckpoint(BaseModel):
    """A checkpoint of any architecture with a stage, verified: its digest is the stated one.

    config: its whole config.json, in which `stage` stands.
    """

    model_config = ConfigDict(frozen=True)

    folder: Path
    stage: Stage
    sha256: str
    config: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name


class CheckpointInfo(BaseModel):
    """A description of the loaded checkpoint, for fingerprints and reports."""

    model_config = ConfigDict(frozen=True)

    name: str
    source: str
    revision: str | None
    sha256: str = Field(description="of model.safetensors, as read")
    licence: str
    n_parameters: int
    dims: dict[str, int] = Field(description="fields of `Architecture`")


REGISTRY: Mapping[str, CheckpointEntry] = {
    entry.name: entry
    for entry in (
        CheckpointEntry(name="bundled", path=packaged("data/checkpoints/bundled"), licence="MIT"),
        # TODO: pin revision and sha256.
        CheckpointEntry(
            name="timesfm-2.5-200m",
            hub_id="google/timesfm-2.5-200m-pytorch",
            licence="Apache-2.0",
            dims={
                "model_dims": 1280,
                "ff_dims": 1280,
                "num_layers": 20,
                "num_heads": 16,
                "output_quantile_len": 1024,
                "context_limit": 16_384,
            },
        ),
    )
}


def find_checkpoint(
    name_or_path: str | Path, revision: str | None = None
) -> tuple[CheckpointInfo, "Architecture", Path]:
    """Find a checkpoint, verify it without loading its tensors, and return (info, architecture,
    weights file).

    Raises CheckpointError for an unknown name, an absent or pickled file, a digest other than the
    pinned one, an architecture that is not TimesFM-2.5's, or a config.json that disagrees with the
    tensors.
    """
    entry = _entry(name_or_path)
    name = entry.name
    if entry.hub_id is not None:
        revision = revision or entry.revision
        path = _download(entry, revision)
        config = {"name": name, **(entry.dims or {})}
    elif revision is not None:
        raise CheckpointError(
            f"{name}: revision is {revision!r}, but only checkpoints on the hub have revisions"
        )
    else:
        path = local_weights(entry)
        config = {"name": path.parent.name} | _read_config(path.with_name(CONFIG_FILE))
    sha256, pinned = _digest(path), entry.sha256 or config.get("sha256")
    if pinned is not None and pinned != sha256:
        raise CheckpointError(
            f"{path}: its sha256 is {sha256}, expected {pinned}: the file was altered or is "
            "another version"
        )
    shapes = _header(path)
    architecture = _architecture_of(shapes, config, path)
    info = CheckpointInfo(
        name=name if name in REGISTRY else str(config["name"]),
        source=entry.hub_id or str(path),
        revision=revision,
        sha256=sha256,
        licence=str(config.get("licence", entry.licence)),
        n_parameters=sum(math.prod(shape) for shape in shapes.values()),
        dims=architecture.model_dump(),
    )
    return info, architecture, path


def checkpoint_digest(name_or_path: str | Path) -> str:
    """Return the sha256 of a checkpoint's weights for fingerprints, without torch. Raises
    CheckpointError if the weights are absent.
    """
    entry = _entry(name_or_path)
    return _digest(
        local_weights(entry) if entry.hub_id is None else _download(entry, entry.revision)
    )


def staged_checkpoint(folder: Path) -> StagedCheckpoint:
    """Return the checkpoint of a folder with model.safetensors, config.json and MODEL_CARD.md,
    verified without loading its tensors.

    Raises CheckpointError for an absent or pickled file, for another digest than the stated one,
    and where no stage is stated.
    """
    weights = local_weights(CheckpointEntry(name=folder.name, path=folder, licence="unknown"))
    absent = [name for name in (CONFIG_FILE, CARD_FILE) if not (folder / name).is_file()]
    if absent:
        raise CheckpointError(
            f"{folder}: no {' and no '.join(absent)}; a checkpoint of the registry is a directory "
            f"with {WEIGHTS_FILE}, {CONFIG_FILE} and {CARD_FILE}"
        )
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        stated = StagedCheckpoint(
            folder=folder, stage=config["stage"], sha256=config["sha256"], config=config
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: {error}; it must be JSON with `sha256`, and with `stage`: "
            "candidate or promoted"
        ) from error
    digest = _digest(weights)
    if digest != stated.sha256:
        raise CheckpointError(
            f"{weights}: its sha256 is {digest}, expected {stated.sha256}: the file was altered or "
            "is another version"
        )
    return stated


def read_tensors(path: Path) -> "dict[str, torch.Tensor]":
    """Return the named tensors of a safetensors file, on the CPU."""
    from safetensors.torch import load_file

    return load_file(path)


def expected_shapes(architecture: "Architecture") -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of the package's module in this size."""
    dims, ff, head = architecture.model_dims, architecture.ff_dims, architecture.head_dims
    shapes: dict[str, tuple[int, ...]] = {}
    for block, inputs, outputs in (
        ("tokenizer", 64, dims),
        ("output_projection_point", dims, 128 * 10),
        ("output_projection_quantiles", dims, architecture.output_quantile_len * 10),
    ):
        for layer, shape in (
            ("hidden_layer", (dims, inputs)),
            ("output_layer", (outputs, dims)),
            ("residual_layer", (outputs, inputs)),
        ):
            shapes[f"{block}.{layer}.weight"] = shape
            if block == "tokenizer":
                shapes[f"{block}.{layer}.bias"] = shape[:1]
    for i in range(architecture.num_layers):
        layer_shapes = {
            **dict.fromkeys(
                ("pre_attn_ln.scale", "post_attn_ln.scale", "pre_ff_ln.scale", "post_ff_ln.scale"),
                (dims,),
            ),
            **dict.fromkeys(
                ("attn.query_ln.scale", "attn.key_ln.scale", "attn.per_dim_scale.per_dim_scale"),
                (head,),
            ),
            "attn.qkv_proj.weight": (3 * dims, dims),
            "attn.out.weight": (dims, dims),
            "ff0.weight": (ff, dims),
            "ff1.weight": (dims, ff),
        }
        shapes |= {f"stacked_xf.{i}.{name}": shape for name, shape in layer_shapes.items()}
    return shapes


def _entry(name_or_path: str | Path) -> CheckpointEntry:
    """Return the registered checkpoint with that name, or an entry for the path."""
    name = str(name_or_path)
    return REGISTRY.get(name, CheckpointEntry(name=name, path=Path(name), licence="unknown"))


def local_weights(entry: CheckpointEntry) -> Path:
    """Return the weights file of a directory, or the file itself."""
    directory = entry.path or Path()
    if directory.suffix in PICKLED_SUFFIXES:
        raise CheckpointError(_refusal(directory))
    path = directory if directory.suffix == ".safetensors" else directory / WEIGHTS_FILE
    if path.is_file():
        return path
    pickled = (
        sorted(p for p in directory.glob("*") if p.suffix in PICKLED_SUFFIXES)
        if directory.is_dir()
        else []
    )
    if pickled:
        raise CheckpointError(_refusal(pickled[0]))
    if entry.name in REGISTRY or directory.exists():
        raise CheckpointError(
            f"checkpoint {entry.name!r}: {path} does not exist; a checkpoint is a directory with "
            f"{WEIGHTS_FILE}"
        )
    raise CheckpointError(
        f"{entry.name!r} is neither a registered checkpoint nor a directory; allowed: "
        f"{', '.join(REGISTRY)}, "
        f"or the path of a directory with {WEIGHTS_FILE} (and {CONFIG_FILE})"
    )


def _refusal(path: Path) -> str:
    return (
        f"{path} is a pickled checkpoint, and opening it runs any code that it contains; allowed: "
        "safetensors. "
        "Convert it where you trust it, with safetensors.torch.save_file(state_dict, "
        f"'{WEIGHTS_FILE}')"
    )


def _download(entry: CheckpointEntry, revision: str | None) -> Path:
    assert entry.hub_id is not None
    from huggingface_hub import hf_hub_download

    try:
        return Path(str(hf_hub_download(entry.hub_id, WEIGHTS_FILE, revision=revision)))
    except OSError as error:  # the hub raises OSError, also without a connection
        raise CheckpointError(
            f"checkpoint {entry.name!r}: could not get {WEIGHTS_FILE} of {entry.hub_id} "
            f"(revision {revision or 'latest'}) from the hub: {type(error).__name__}: {error}. "
            "Without a connection: download the file elsewhere "
            f"(`hf download {entry.hub_id} {WEIGHTS_FILE} --local-dir <directory>`) "
            "and pass that directory instead of the name"
        ) from error


def _read_config(path: Path) -> dict[str, Any]:
    """Return the fields of this project's config.json: dimensions, name, licence, sha256. A missing
    config.json, or one without dimensions (such as the hub's), gives an empty dictionary.
    """
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    return config if isinstance(config, dict) and "model_dims" in config else {}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor in a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def _architecture_of(
    shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any], path: Path
) -> "Architecture":
    """Return the architecture that follows from the tensors' shapes, checked against config.json
    and tensor by tensor.
    """
    from tsfm_pipeline.forecaster.architecture import Architecture

    stated = {field: config[field] for field in Architecture.model_fields if field in config}
    try:
        model_dims = shapes["tokenizer.output_layer.weight"][0]
        architecture = Architecture(
            model_dims=model_dims,
            ff_dims=shapes["stacked_xf.0.ff0.weight"][0],
            num_layers=len(
                {name.split(".")[1] for name in shapes if name.startswith("stacked_xf.")}
            ),
            num_heads=model_dims // shapes["stacked_xf.0.attn.query_ln.scale"][0],
            output_quantile_len=shapes["output_projection_quantiles.output_layer.weight"][0] // 10,
            context_limit=stated.get("context_limit", DEFAULT_CONTEXT_LIMIT),
        )
        if stated and Architecture.model_validate(stated) != architecture:
            raise CheckpointError(
                f"{path.with_name(CONFIG_FILE)} states {stated}, but the tensors of {path.name} "
                f"are those of {architecture.model_dump()}"
            )
    except KeyError as error:
        raise CheckpointError(
            f"{path} is not a TimesFM-2.5 checkpoint: tensor {error} is missing; it holds "
            f"{_listed(shapes)}"
        ) from error
    except ValidationError as error:
        raise CheckpointError(f"{path} is not a TimesFM-2.5 checkpoint: {error}") from error
    expected = expected_shapes(architecture)
    missing = sorted(expected.keys() - shapes.keys())
    unexpected = sorted(shapes.keys() - expected.keys())
    wrong = [
        f"{name} {shapes[name]} for {shape}"
        for name, shape in expected.items()
        if shapes.get(name, shape) != shape
    ]
    if missing or unexpected or wrong:
        raise CheckpointError(
            f"{path} does not fit the TimesFM-2.5 architecture: missing tensors: "
            f"{_listed(missing)}; "
            f"unexpected tensors: {_listed(unexpected)}; wrong shapes: {_listed(wrong)}"
        )
    return architecture


def _listed(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - N_LISTED} more" if len(names) > N_LISTED else ""
    return ", ".join(names[:N_LISTED]) + more if names else "none"
