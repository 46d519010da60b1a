"""One history, carried out twice: through this library, and through Lance in process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import lance
import pyarrow as pa

from ray_lance.table import TableRef
from tests.oracle import cases
from tests.oracle.compare import check_same
from tests.oracle.values import as_lance_takes_it
from tests.oracle.ways import Refused, Way

__all__ = ["carry_out"]


def carry_out(case: cases.Case, folder: Path, way: Way) -> None:
    """Carry out ``case`` below ``folder``, and compare after each step.

    Raises:
        Refused: The first rows cannot be written by Lance, or sent by Ray.
        AssertionError: The two differ.
    """
    pair = _Pair(case, str(folder / "ours"), str(folder / "theirs"), way)
    pair.create()
    pair.check()
    for step in case.steps:
        # What Lance alone has done on both sides shows in what comes after it.
        if pair.apply(step) and isinstance(step, _WRITES):
            pair.check()
    pair.check_finally()


@dataclass
class _Pair:
    case: cases.Case
    ours: str
    theirs: str
    way: Way
    branch: str | None = None
    names: list[str] = field(default_factory=list)

    def create(self) -> None:
        blocks = self.case.first.tables(self.case.extra)
        options = {
            "data_storage_version": self.case.version,
            "enable_stable_row_ids": self.case.stable_row_ids,
        }
        try:
            lance.write_dataset(_for_lance(blocks), self.theirs, **options)
            written = lance.dataset(self.theirs).to_table()
        except BaseException as error:  # a panic of Lance is no Exception
            raise _refused(error) from error
        if not _is_kept(_for_lance(blocks), written):
            raise Refused("Lance does not give back what it was given")
        self.way.write(self.ours, blocks, "create", **options)
        self.names = written.column_names

    def apply(self, step: cases.Step) -> bool:
        """Carry out ``step`` on both; False where Lance cannot."""
        before = self._open(self.theirs).version
        try:
            self._apply_theirs(step)
        except BaseException as error:
            refused = _refused(error)
            assert self._open(self.theirs).version == before, f"Lance failed half-way: {refused}"
            return False
        self._apply_ours(step)
        if isinstance(step, cases.StartBranch) and self.branch is None:
            self.branch = step.name
        self.names = self._open(self.theirs).schema.names
        return True

    def check(self) -> None:
        """Compare rows, types and answers."""
        check_same(self._reference(), self._open(self.ours), self._open(self.theirs), self.way)

    def check_finally(self) -> None:
        """Compare again when indexes and files have been brought in order, and what is beside the branch."""
        for uri in (self.ours, self.theirs):
            dataset = self._open(uri)
            dataset.optimize.optimize_indices()
            self._compact(dataset)
        self.check()
        if self.branch is not None:
            check_same(self.ours, lance.dataset(self.ours), lance.dataset(self.theirs), self.way)
        tags = {uri: sorted(lance.dataset(uri).tags.list()) for uri in (self.ours, self.theirs)}
        assert tags[self.ours] == tags[self.theirs]
        for tag in tags[self.ours]:
            ours, theirs = (lance.dataset(uri).checkout_version(tag) for uri in (self.ours, self.theirs))
            check_same(TableRef.of(self.ours, version=tag), ours, theirs, self.way)

    def _apply_theirs(self, step: cases.Step) -> None:
        dataset = self._open(self.theirs)
        match step:
            case cases.Append(rows):
                lance.write_dataset(_for_lance(self._blocks(rows)), dataset, mode="append")
            case cases.Overwrite(rows):
                lance.write_dataset(_for_lance(rows.tables(self.case.extra)), dataset, mode="overwrite")
            case cases.Merge(rows, update, insert, delete_missing):
                merge = dataset.merge_insert("id")
                if update:
                    merge = merge.when_matched_update_all()
                if insert:
                    merge = merge.when_not_matched_insert_all()
                if delete_missing:
                    merge = merge.when_not_matched_by_source_delete()
                merge.execute(_for_lance(self._blocks(rows)))
            case cases.AddColumn(name):
                dataset.add_columns({name: "id * 2"})
            case _:
                self._apply_by_lance(step, dataset)

    def _apply_ours(self, step: cases.Step) -> None:
        reference = self._reference()
        match step:
            case cases.Append(rows):
                self.way.write(reference, self._blocks(rows), "append")
            case cases.Overwrite(rows):
                self.way.write(reference, rows.tables(self.case.extra), "overwrite")
            case cases.Merge(rows):
                self.way.merge(reference, self._blocks(rows), step)
            case cases.AddColumn(name):
                self.way.add_column(reference, name)
            case _:
                self._apply_by_lance(step, self._open(self.ours))

    def _apply_by_lance(self, step: cases.Step, dataset: lance.LanceDataset) -> None:
        """What only Lance does, on either side."""
        match step:
            case cases.Delete(where):
                dataset.delete(where)
            case cases.Update(where):
                dataset.update({"num": "3"}, where=where)
            case cases.CreateIndex(kind):
                _create_index(dataset, kind)
            case cases.Optimize():
                dataset.optimize.optimize_indices()
            case cases.Compact():
                self._compact(dataset)
            case cases.DropColumn():
                dataset.drop_columns(["x0"])
            case cases.Tag(name):
                dataset.tags.create(name, dataset.version if self.branch is None else (self.branch, dataset.version))
            case cases.StartBranch(name):
                if self.branch is None:
                    dataset.create_branch(name)

    def _compact(self, dataset: lance.LanceDataset) -> None:
        """Compact the files, but of no branch: there Lance loses the files of indexes that it has from its origin."""
        if self.branch is None:
            dataset.optimize.compact_files()

    def _blocks(self, rows: cases.Rows) -> list[pa.Table]:
        """``rows`` with the columns that the table has now."""
        return [_with_columns(block, self.names) for block in rows.tables(self.case.extra)]

    def _open(self, uri: str) -> lance.LanceDataset:
        dataset = lance.dataset(uri)
        return dataset if self.branch is None else dataset.checkout_version((self.branch, None))

    def _reference(self) -> str | TableRef:
        """What this library is given."""
        return self.ours if self.branch is None else TableRef.of(self._open(self.ours))


_WRITES = (cases.Append, cases.Overwrite, cases.Merge, cases.AddColumn)


def _refused(error: BaseException) -> Refused:
    """``error`` as a refusal; interrupts go on."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        raise error
    return Refused(str(error))


def _for_lance(blocks: Sequence[pa.Table]) -> pa.Table:
    """The rows as one table without offsets, in types that Lance writes."""
    schema = pa.schema([column.with_type(as_lance_takes_it(column.type)) for column in blocks[0].schema])
    return pa.concat_tables([_cast(block, schema) for block in blocks]).unify_dictionaries()


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [_cast_column(column, target.type) for column, target in zip(table.columns, schema, strict=True)]
    return pa.table(columns, schema)


def _cast_column(column: pa.ChunkedArray, dtype: pa.DataType) -> pa.ChunkedArray:
    if column.type == dtype:
        return column.take(pa.array(range(len(column))))
    return pa.chunked_array([pa.array(column.to_pylist(), dtype)])


def _is_kept(given: pa.Table, written: pa.Table) -> bool:
    return repr(given.to_pylist()) == repr(written.to_pylist())


def _with_columns(block: pa.Table, names: Sequence[str]) -> pa.Table:
    for name in names:
        if name not in block.column_names:
            block = block.append_column(name, pa.array([None if x is None else x * 2 for x in block["id"].to_pylist()]))
    return block.select(names)


def _create_index(dataset: lance.LanceDataset, kind: str) -> None:
    column = cases.INDEXES[kind]
    if kind.startswith("IVF"):
        dataset.create_index(column, kind, metric="L2", num_partitions=1, num_sub_vectors=2, replace=True)
    else:
        dataset.create_scalar_index(column, kind, replace=True)
