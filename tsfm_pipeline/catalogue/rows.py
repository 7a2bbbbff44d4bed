"""Converts arrays to rows: adds the keys of a (request, metric, ...) table, in its sort order.

What belongs here: key columns and array columns. What does not: computation.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray


def keyed_rows(
    request_ids: NDArray[np.int64],
    tenant_numbers: NDArray[np.int64],
    axes: Mapping[str, Sequence[Any]],
    columns: Mapping[str, NDArray[Any]],
) -> pl.DataFrame:
    """Return one row per request and combination of the axes' labels, in C order.

    request_ids and tenant_numbers [R]; axes maps a column's name to its labels, outermost first;
    columns maps a name to an array [R, *lengths of axes] or, for a fixed-size list per row, [R,
    *lengths, L].
    """
    lengths = [len(labels) for labels in axes.values()]
    n_requests = len(request_ids)
    n_below = int(np.prod(lengths))
    frame: dict[str, pl.Series] = {
        "request_id": pl.Series(np.repeat(request_ids, n_below)),
        "tenant_number": pl.Series(np.repeat(tenant_numbers.astype(np.int32), n_below)),
    }
    for axis, (name, labels) in enumerate(axes.items()):
        inner = int(np.prod(lengths[axis + 1 :]))
        outer = n_requests * int(np.prod(lengths[:axis]))
        frame[name] = pl.Series(list(labels)).gather(
            np.tile(np.repeat(np.arange(len(labels)), inner), outer)
        )
    for name, values in columns.items():
        n_rows = n_requests * n_below
        per_row = values.shape[1 + len(lengths) :]
        flat = np.ascontiguousarray(values).reshape(
            (n_rows, int(np.prod(per_row))) if per_row else (n_rows,)
        )
        frame[name] = pl.Series(flat)
    return pl.DataFrame(frame)
