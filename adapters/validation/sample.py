"""The reference sample, read from Parquet, CSV or JSON Lines.

DuckDB reads it, here a second time beside the archive: this process sees one file, may not reach the network or any other file,
and dies afterwards. A large file is sampled evenly, the same rows each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import duckdb
import numpy as np

from gateway.core.errors import NotValid
from gateway.core.tensors import INTEGERS, NUMPY_DTYPES, Array, Datatype, bf16_bits, from_bf16_bits

ROWS_MAX: Final = 50_000  # kept of a sample; a quantile's error is then under 0.5 % of rank, for 40 MB at 100 columns
_TEXT_TYPES: Final = frozenset({"VARCHAR", "STRING"})  # as DuckDB prints them
_READERS: Final = {".parquet": "read_parquet", ".csv": "read_csv", ".jsonl": "read_json"}
_OPTIONS: Final = {
    ".csv": ", auto_type_candidates = ['BOOLEAN', 'BIGINT', 'DOUBLE', 'VARCHAR']",  # inf would be a date
    ".jsonl": ", format = 'newline_delimited'",
}


class Sample:
    """One file of rows with named columns."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            NotValid: it cannot be read, or has no rows.
        """
        try:
            self._database = duckdb.connect(":memory:", config={"threads": 1, "autoinstall_known_extensions": False})
            literal = str(path).replace("'", "''")
            self._database.execute(f"SET allowed_paths = ['{literal}']")
            self._database.execute("SET enable_external_access = false")
            more = _OPTIONS.get(path.suffix, "")
            self._rows = f"(SELECT * FROM {_READERS[path.suffix]}('{literal}'{more}))"  # noqa: S608  # quoted above
            described = self._database.execute(f"SELECT * FROM {self._rows} LIMIT 1").description  # noqa: S608
            is_empty = self._database.fetchone() is None
        except duckdb.Error as error:
            raise NotValid(f"reference: {_first_line(error)}") from error
        if is_empty:  # before anybody asks for columns: of an empty file DuckDB makes one up
            raise NotValid("reference: it has no rows")
        self.columns: tuple[str, ...] = tuple(str(column[0]) for column in described or ())
        self._texts = frozenset(str(column[0]) for column in described or () if str(column[1]) in _TEXT_TYPES)

    def is_text(self, name: str) -> bool:
        """Return whether a column holds text; False when it is missing."""
        return name in self._texts

    def read(self, columns: Sequence[tuple[str, Datatype]]) -> dict[str, Array]:
        """Return columns as arrays of shape (rows,), as a model's inputs take them.

        Returns:
            Floats with NaN where there is no value; bytes, empty where there is none.

        Raises:
            NotValid: a column is missing, or a value is not of its column's type.
        """
        missing = [name for name, _ in columns if name not in self.columns]
        if missing:
            raise NotValid(
                f"reference: column {missing[0]!r} is missing; it has {', '.join(self.columns[:20])}",
                hint="the reference holds the model's features by the names in metadata.columns",
            )
        chosen = ", ".join(
            f"CAST({_quoted(name)} AS {_sql_type(datatype)}) AS c{at}" for at, (name, datatype) in enumerate(columns)
        )
        sampled = f"SELECT {chosen} FROM {self._rows} USING SAMPLE reservoir({ROWS_MAX} ROWS) REPEATABLE (1)"  # noqa: S608
        try:
            found = self._database.execute(sampled).fetchnumpy()
        except duckdb.Error as error:
            raise NotValid(f"reference: {_first_line(error)}") from error
        return {name: _array(found[f"c{at}"], name, datatype) for at, (name, datatype) in enumerate(columns)}


def _sql_type(datatype: Datatype) -> str:
    if datatype is Datatype.BYTES:
        return "VARCHAR"
    return "BIGINT" if datatype in INTEGERS else "BOOLEAN" if datatype is Datatype.BOOL else "DOUBLE"


def _array(found: Array, name: str, datatype: Datatype) -> Array:
    dtype = NUMPY_DTYPES[datatype]
    is_missing = np.ma.getmaskarray(found)
    if datatype is Datatype.BYTES:
        texts = np.empty(len(found), np.object_)
        texts[:] = [b"" if gone or value is None else str(value).encode() for value, gone in zip(found, is_missing, strict=True)]
        return texts
    if dtype.kind == "f":
        numbers = np.ma.filled(found.astype(np.float64), np.nan).astype(dtype)
        return from_bf16_bits(bf16_bits(numbers)) if datatype is Datatype.BF16 else numbers  # cut off, as clients do
    if is_missing.any():
        raise NotValid(f"reference: column {name!r} has rows without a value, and input type {datatype.value} cannot hold that")
    plain = np.ma.filled(found, 0)
    cast = plain.astype(dtype)
    if not np.array_equal(cast, plain):
        raise NotValid(f"reference: column {name!r} has values beyond {datatype.value}")
    return cast


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
