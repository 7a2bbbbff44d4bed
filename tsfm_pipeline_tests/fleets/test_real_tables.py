"""Test that the shipped specs of real fleets read their tables, where the tables are available."""

import os
from pathlib import Path

import numpy as np
import pytest

from tsfm_pipeline.fleets import FleetSource, TableFleet, load_spec, open_fleet

ROOT = Path(__file__).parents[2]
FLEETS_DIR = Path(os.environ.get("TSFM_FLEETS_DIR", ROOT.parent / "shared" / "fleets"))


def real(name: str) -> FleetSource:
    spec = load_spec(ROOT / "data" / "fleets" / f"{name}.yaml")
    assert isinstance(spec, TableFleet)
    path = spec.expanded_path(FLEETS_DIR)
    if not path.is_file():
        pytest.skip(f"{path} is absent; set TSFM_FLEETS_DIR to the folder that holds it")
    return open_fleet(spec, fleets_dir=FLEETS_DIR)


def test_smd_is_seventeen_machines_by_the_minute():
    source = real("smd")
    manifest = source.manifest()
    assert (source.n_tenants, len(source.metrics), source.step_minutes, source.seasons) == (
        17,
        8,
        1.0,
        (1440, 10080),
    )
    assert manifest["n_missing"].sum() == manifest["n_duplicates"].sum() == 0
    assert manifest["n_observed"].sum() == 805_700 * 8
    values = source.values([0, 16])
    assert values.shape == (2, 8, source.n_steps)
    assert np.nanmin(values) >= 0
    assert np.nanmax(values) <= 1


def test_asd_is_twelve_servers_every_five_minutes_one_of_them_shorter():
    source = real("asd")
    assert (source.n_tenants, len(source.metrics), source.step_minutes, source.seasons) == (
        12,
        19,
        5.0,
        (288, 2016),
    )
    assert source.spec.horizon * source.step_minutes == 60
    manifest = source.manifest()
    short = manifest.row(manifest["tenant_id"].index_of("omi-12"), named=True)
    assert (short["first_step"], short["last_step"] + 1) == (0, 11_611)
    assert np.isnan(source.values([short["tenant_number"]])[0, :, 11_611:]).all()
    assert manifest["n_observed"].sum() == 154_171 * 19
