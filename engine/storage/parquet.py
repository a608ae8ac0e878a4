"""Tables as Parquet bytes, the same bytes for the same rows."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def parquet_bytes(table: "pa.Table") -> bytes:
    """Return a table as a zstd-compressed Parquet file."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
