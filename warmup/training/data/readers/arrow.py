"""Rows of Arrow tables: parquet files, and data sets of the `datasets` library."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any

import datasets
import pyarrow.parquet

from warmup.config.data import Data
from warmup.errors import UserError, one_line
from warmup.training.data.lines import raise_too_large
from warmup.training.data.readers.columns import BadRow, ChosenColumns, RowFormat
from warmup.training.data.samples import NO_TAG
from warmup.training.data.sources import Source
from warmup.training.data.tables import ROWS, rows_at_once

_UNREADABLE = (OSError, ValueError, KeyError, pyarrow.ArrowException)


def parquet_rows(file: str, row_format: RowFormat) -> Iterator[dict[str, Any] | BadRow]:
    try:
        with pyarrow.parquet.ParquetFile(file, page_checksum_verification=True) as parquet:
            schema = parquet.schema_arrow
            chosen = row_format.choose(file, schema.names)
            features = _features(schema, chosen)
            yield from _rows(file, _batches(parquet, chosen), chosen, features, row_format.options)
    except UserError:
        raise
    except _UNREADABLE as error:
        raise UserError(f"{file}: damaged, or no parquet file ({one_line(error)})") from error


def dataset_rows(name: str, table: datasets.Dataset, row_format: RowFormat) -> Iterator[dict[str, Any] | BadRow]:
    chosen = row_format.choose(name, table.column_names)
    try:
        read = table.select_columns(list(chosen.file_names)).with_format("arrow")
        batches = read.iter(rows_at_once(read.data.nbytes, len(read.data)))
        yield from _rows(name, batches, chosen, table.features, row_format.options)
    except UserError:
        raise
    except _UNREADABLE as error:
        raise UserError(f"{name}: damaged data ({one_line(error)})") from error


def shard_rows(
    name: str, stream: datasets.IterableDataset, shard: int, row_format: RowFormat
) -> Iterator[dict[str, Any] | BadRow]:
    """Rows of one shard of a data set that is not downloaded."""
    try:
        batches = stream.shard(stream.num_shards, shard).with_format("arrow").iter(ROWS)
        first = next(batches, None)
        if first is not None:
            features = stream.features or datasets.Features.from_arrow_schema(first.schema)
            chosen = row_format.choose(name, first.column_names)
            yield from _rows(name, itertools.chain([first], batches), chosen, features, row_format.options)
    except UserError:
        raise
    except Exception as error:  # of the network, the hub, or whatever a damaged file leads the library to
        raise UserError(f"{name} cannot be read: {one_line(error)}") from error


def declared_classes(source: Source, row_format: RowFormat) -> list[str]:
    """The classes of a data set's labels in the order of its ClassLabel; [] where it declares none."""
    try:
        if source.kind == ".parquet":
            schema = pyarrow.parquet.read_schema(source.name)
            chosen = row_format.choose(source.name, schema.names)
            features = _features(schema, chosen)
        elif source.table is not None:
            chosen = row_format.choose(source.name, source.table.column_names)
            features = source.table.features
        else:
            return []
    except _UNREADABLE:  # UserError is one of them; it is raised where the rows are read
        return []
    name = chosen.names.get("label")
    feature = features.get(name) if isinstance(name, str) else None
    feature = getattr(feature, "feature", feature)  # of a list of labels
    return [name.strip() for name in feature.names] if isinstance(feature, datasets.ClassLabel) else []


def _batches(parquet: pyarrow.parquet.ParquetFile, chosen: ChosenColumns) -> Iterator[pyarrow.RecordBatch]:
    """Yield the rows of a file, as many at once as the size of their group suggests."""
    for number in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(number)
        size = sum(group.column(column).total_uncompressed_size for column in range(group.num_columns))
        rows = rows_at_once(size, group.num_rows)
        yield from parquet.iter_batches(rows, row_groups=[number], columns=list(chosen.file_names))


def _features(schema: pyarrow.Schema, chosen: ChosenColumns) -> datasets.Features | dict:
    """What `Dataset.to_parquet` notes of the columns, such as the names of classes; {} in a file without such notes."""
    if b"huggingface" not in (schema.metadata or {}):
        return {}
    fields = [schema.field(name) for name in chosen.file_names]
    return datasets.Features.from_arrow_schema(pyarrow.schema(fields, metadata=schema.metadata))


def _rows(
    name: str,
    batches: Iterable[pyarrow.RecordBatch | pyarrow.Table],
    chosen: ChosenColumns,
    features: dict,
    options: Data,
) -> Iterator[dict[str, Any] | BadRow]:
    """Yield the rows of batches.

    Args:
        name: of the file or data set.
        batches: of its columns.
        chosen: the columns to read.
        features: types of its columns, where they are known.
        options: of the configuration.
    """
    number = 0
    for batch in batches:
        for column in chosen.file_names:
            _check_size(name, number, batch.column(column), options.max_document_bytes)
        columns = {
            column: _values(batch.column(column), features.get(column), options.ignore_labels)
            for column in chosen.file_names
        }
        for values in zip(*columns.values(), strict=True):
            number += 1
            try:
                yield chosen.parse(_decoded(dict(zip(columns, values, strict=True))))
            except ValueError as error:
                yield BadRow(name, number, str(error), unit="row")


def _check_size(name: str, before: int, column: pyarrow.Array | pyarrow.ChunkedArray, max_bytes: int) -> None:
    """Raise UserError where a cell is too large.

    Args:
        name: of the file or data set.
        before: rows before those of the column.
        column: some rows of it.
        max_bytes: the most that a cell may have.
    """
    if column.nbytes > max_bytes:
        for number in range(len(column)):
            if column.slice(number, 1).nbytes > max_bytes:
                raise_too_large(f"{name}: row {before + number + 1}: a cell", max_bytes)


def _values(column: pyarrow.Array | pyarrow.ChunkedArray, feature: object, ignored: Collection[str] = ()) -> list:
    """A column's values: strings as bytes yet to be decoded, so that a bad one spoils its own row alone."""
    kinds = pyarrow.types
    if kinds.is_list(column.type) or kinds.is_large_list(column.type):
        return _lists(column, feature, (NO_TAG, *ignored))
    if kinds.is_struct(column.type):
        return _structs(column, feature, ignored)
    if kinds.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kinds.is_string(column.type) or kinds.is_large_string(column.type) or kinds.is_string_view(column.type):
        column = column.cast(pyarrow.large_binary())
        column.validate(full=True)  # offsets that point outside would be read all the same
        return column.to_pylist()
    if not (kinds.is_integer(column.type) or kinds.is_floating(column.type) or kinds.is_boolean(column.type)):
        return [() if valid else None for valid in column.is_valid().to_pylist()]  # neither text nor number
    if isinstance(feature, datasets.ClassLabel):
        return [_class_name(feature, value, ignored) for value in column.to_pylist()]
    return column.to_pylist()


def _lists(
    column: pyarrow.Array | pyarrow.ChunkedArray, feature: object, ignored: Collection[str]
) -> list[list | None]:
    """As they are, with what `_values` makes of that which is in them."""
    chunks = column.chunks if isinstance(column, pyarrow.ChunkedArray) else [column]
    found: list[list | None] = []
    for chunk in chunks:
        chunk.validate()
        # Its offsets alone in full: a string that is not UTF-8 spoils its own row alone.
        type(chunk).from_arrays(chunk.offsets, pyarrow.nulls(len(chunk.values))).validate(full=True)
        values = iter(_values(chunk.flatten(), getattr(feature, "feature", None), ignored))
        counts = pyarrow.compute.list_value_length(chunk).to_pylist()
        found += [None if count is None else list(islice(values, count)) for count in counts]
    return found


def _structs(
    column: pyarrow.Array | pyarrow.ChunkedArray, feature: object, ignored: Collection[str]
) -> list[dict | None]:
    """Objects, with what `_values` makes of that which is in them."""
    feature = getattr(feature, "feature", feature)
    types = feature if isinstance(feature, dict) else {}
    chunks = column.chunks if isinstance(column, pyarrow.ChunkedArray) else [column]
    found: list[dict | None] = []
    for chunk in chunks:
        names = [field.name for field in chunk.type]
        parts = [_values(part, types.get(name), ignored) for name, part in zip(names, chunk.flatten(), strict=True)]
        for valid, *values in zip(chunk.is_valid().to_pylist(), *parts, strict=True):
            found.append(dict(zip(names, values, strict=True)) if valid else None)
    return found


def _class_name(feature: datasets.ClassLabel, value: int | None, ignored: Collection[str]) -> str | None:
    """The name of a class. -1 is how published data sets write that a row has no label."""
    if value is None or value < 0:
        return str(value) if str(value) in ignored else None
    return feature.int2str(value)


def _decoded(record: dict) -> dict:
    return {column: _text(value, column) for column, value in record.items()}


def _text(value: object, column: str) -> object:
    """Bytes as text, alone, in a list or in an object; anything else as it is."""
    if isinstance(value, list):
        return [_text(part, column) for part in value]
    if isinstance(value, dict):
        return {name: _text(part, column) for name, part in value.items()}
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f"byte 0x{value[error.start]:02x} at position {error.start + 1} of {column!r}"
        raise ValueError(f"not UTF-8 ({where})") from error
