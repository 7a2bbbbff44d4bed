"""The fleet's recommended reservations as metrics, for whatever scrapes them.

What belongs here: reading `recommendations.parquet`, which a run writes beside the bundle, and its
text for /metrics?recommended=1. What does not: making recommendations (`steps`), and the service's
own metrics (`metrics`).
"""

from pathlib import Path

import polars as pl

from tsfm_pipeline.files import StorageError
from tsfm_pipeline.serving.metrics import recommended

COLUMNS = ("tenant_id", "metric", "tier", "reservation")


class Recommendations:
    """The file's content as text; it is read again when the file has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_at: tuple[int, int] | None = None
        self._text = b""

    def text(self) -> bytes:
        """Return `tsfm_recommended{tenant,metric,tier}` for every reservation.

        Each run replaces the file, and with it all series. Rows without a reservation have no
        series. Raises `StorageError` if the file is missing or is not a table of recommendations.
        """
        try:
            stat = self.path.stat()
            if (stat.st_mtime_ns, stat.st_size) != self._read_at:
                table = pl.read_parquet(self.path, columns=list(COLUMNS), glob=False)
                known = table.filter(pl.col("reservation").is_finite())
                self._text = recommended(known.iter_rows())
                self._read_at = stat.st_mtime_ns, stat.st_size
        except (OSError, pl.exceptions.PolarsError) as error:
            raise StorageError(
                f"{self.path} cannot be read: {error}; materialise the asset 'recommendations' of "
                "the served fleet"
            ) from error
        return self._text
