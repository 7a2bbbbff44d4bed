"""Measure the time and memory of generating a synthetic fleet and writing it as Parquet.

`python benchmarks/fleet_generation.py [--spec data/fleets/synthetic.yaml] [--shard 25] [--quick]`
prints one JSON object.

What belongs here: this measurement, shard by shard as in the asset. What does not: assertions (they
are tests).
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tsfm_pipeline.fleets import SyntheticFleet, load_spec
from tsfm_pipeline.fleets.synthetic import SyntheticSource

SINGLE_TENANTS = 50
QUICK_TENANTS = 50
REPEATS = 3


def long_table(
    source: SyntheticSource, tenant_ids: pl.Series, values: NDArray[np.float32]
) -> pl.DataFrame:
    """Return the long telemetry table of values [N, D, T]: tenant_id, timestamp and one column per
    metric.
    """
    n_tenants, _, n_steps = values.shape
    columns = {metric: values[:, i, :].reshape(-1) for i, metric in enumerate(source.metrics)}
    return pl.DataFrame(
        {
            "tenant_id": tenant_ids.gather(np.repeat(np.arange(n_tenants), n_steps)).cast(
                pl.Categorical
            ),
            "timestamp": pl.concat([source.timestamps()] * n_tenants),
            **columns,
        }
    )


def parquet_settings(
    table: pl.DataFrame, metrics: tuple[str, ...], folder: Path
) -> list[dict[str, object]]:
    """Return seconds and size of one shard under every plausible setting, the fastest of three
    runs.
    """
    arrow: pa.Table = table.to_arrow()
    split = dict.fromkeys(metrics, "BYTE_STREAM_SPLIT")
    delta = {"timestamp": "DELTA_BINARY_PACKED"}
    writers: dict[str, Callable[[Path], None]] = {}
    for codec, level in (("uncompressed", None), ("snappy", None), ("lz4", None), ("zstd", 1)):
        writers[f"polars {codec}"] = partial(
            table.write_parquet, compression=codec, compression_level=level
        )  # type: ignore[arg-type]
        arrow_codec = "none" if codec == "uncompressed" else codec
        for encoding, encodings in (
            ("delta time", delta),
            ("delta time, byte stream split", delta | split),
        ):
            writers[f"pyarrow {codec}, {encoding}"] = partial(
                pq.write_table,
                arrow,
                compression=arrow_codec,
                compression_level=level,
                use_dictionary=["tenant_id"],
                column_encoding=encodings,
            )
    path = folder / "settings.parquet"
    rows: list[dict[str, object]] = []
    for name, write in writers.items():
        write_s = min(seconds(partial(write, path)) for _ in range(REPEATS))
        read_s = min(seconds(partial(pl.read_parquet, path)) for _ in range(REPEATS))
        size_mb = round(path.stat().st_size / 1e6, 1)
        rows.append(
            {
                "setting": name,
                "write_s": round(write_s, 3),
                "read_s": round(read_s, 3),
                "size_mb": size_mb,
            }
        )
    return rows


def seconds(call: Callable[[], object]) -> float:
    """Return the wall-clock seconds of one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    """Measure with the options of the command line, and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--spec", type=Path, default=Path(__file__).parents[1] / "data/fleets/synthetic.yaml"
    )
    parser.add_argument("--shard", type=int, default=25, help="tenants per Parquet file")
    parser.add_argument(
        "--quick", action="store_true", help=f"a quick look at the first {QUICK_TENANTS} tenants"
    )
    arguments = parser.parse_args()
    spec = load_spec(arguments.spec)
    if not isinstance(spec, SyntheticFleet):
        raise SystemExit(
            f"{arguments.spec}: this benchmark needs a fleet of kind synthetic, not {spec.kind}"
        )
    if arguments.quick:
        spec = spec.model_copy(update={"tenants": min(QUICK_TENANTS, spec.tenants)})
    source = SyntheticSource(spec)
    tenant_ids = source.manifest()["tenant_id"]
    source.values([0])  # imports scipy before the measurement
    generation_s = write_s = size_mb = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for numbers in source.shards(arguments.shard):
            begin = time.perf_counter()
            values = source.values(numbers)
            generated = time.perf_counter()
            path = folder / f"{numbers[0]:06d}.parquet"
            table = long_table(source, tenant_ids[numbers], values)
            table.write_parquet(path, compression="zstd", compression_level=1)
            write_s += time.perf_counter() - generated
            generation_s += generated - begin
            size_mb += path.stat().st_size / 1e6
        peak_rss_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        single = [
            1000 * seconds(partial(source.values, [n]))
            for n in range(min(SINGLE_TENANTS, spec.tenants))
        ]
        settings = parquet_settings(table, source.metrics, folder)
    n_values = spec.tenants * len(source.metrics) * source.n_steps
    print(
        json.dumps(
            {
                "benchmark": "fleet_generation",
                "fleet": spec.name,
                "tenants": spec.tenants,
                "days": spec.days,
                "values": n_values,
                "total_s": round(generation_s + write_s, 2),
                "generation_s": round(generation_s, 2),
                "write_s": round(write_s, 2),
                "values_per_s": round(n_values / (generation_s + write_s)),
                "peak_rss_mib": round(peak_rss_mib),
                "size_mb": round(size_mb, 1),
                "single_tenant_ms_median": round(median(single), 2),
                "single_tenant_ms_max": round(max(single), 2),
                "cores": os.cpu_count(),
                "parquet_settings_one_shard": settings,
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
