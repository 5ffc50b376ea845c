"""Tables that do not fit into memory together: on disk, with one schema for all."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from litpool import CACHE, disk


class Spool:
    """Tables in files in the cache; a column that a table lacks is null there.

    Raises:
        JobError: The cache cannot be written.
    """

    def __init__(self) -> None:
        parent = CACHE / "rows"
        disk.make_folder(parent)
        self._folder = tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True)
        self._schemas: list[pa.Schema] = []

    def close(self) -> None:
        """Delete the files."""
        self._folder.cleanup()

    def add(self, table: pa.Table) -> None:
        """Write a table."""
        with disk.replacing(self._file(len(self._schemas))) as part:
            pq.write_table(table, part)
        self._schemas.append(table.schema)

    def schema(self) -> pa.Schema:
        """Return a schema for all tables, with the columns in the order in which they turned up.

        Raises:
            pyarrow.ArrowException: A column has types that no single type can hold.
        """
        return pa.unify_schemas(self._schemas, promote_options="permissive")

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the tables, in the order in which they were added, with these columns and types."""
        for number in range(len(self._schemas)):
            table = pq.read_table(self._file(number))
            for field in schema:
                if field.name not in table.column_names:
                    table = table.append_column(field, pa.nulls(len(table), field.type))
            yield table.select(schema.names).cast(schema)

    def _file(self, number: int) -> Path:
        return Path(self._folder.name, f"{number}.parquet")
