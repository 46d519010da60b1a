"""Filters: exactly Lance's own answer, through SQL and through Ray's expressions."""

from __future__ import annotations

import datetime

import lance
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from ray.data.expressions import col, udf

import ray_lance
from ray_lance import read_lance

ROWS = 60
DAY = datetime.date(2024, 2, 1)


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("filters") / "table.lance")
    rows = range(ROWS)
    lance.write_dataset(
        pa.table(
            {
                "id": rows,
                "name": [["ann", "bob", "o'hara", 'say "hi"', None][i % 5] for i in rows],
                "score": pa.array([None if i % 7 == 0 else i / 4 for i in rows], pa.float64()),
                "sp ace": [i % 6 for i in rows],
                "day": pa.array([DAY + datetime.timedelta(days=i) for i in rows], pa.date32()),
                "when": pa.array([datetime.datetime(2024, 1, 1, i % 24) for i in rows], pa.timestamp("us")),
                "vec": pa.array([[float(i)] * 2 for i in rows], pa.list_(pa.float32(), 2)),
            }
        ),
        uri,
        max_rows_per_file=17,
    )
    return uri


# name: (Ray expression, SQL)
FILTERS = {
    "int equality": (col("id") == 7, "id = 7"),
    "string equality": (col("name") == "bob", "name = 'bob'"),
    "in ints": (col("id").is_in([3, 5, 59, 1000]), "id IN (3, 5, 59, 1000)"),
    "in strings": (col("name").is_in(["ann", "o'hara"]), "name IN ('ann', 'o''hara')"),
    "is null": (col("name").is_null(), "name IS NULL"),
    "is not null": (col("score").is_not_null(), "score IS NOT NULL"),
    "and/or nest": (
        ((col("id") > 10) & (col("sp ace") < 3)) | ((col("name") == "ann") & ~(col("id") > 50)),
        "(id > 10 AND `sp ace` < 3) OR (name = 'ann' AND NOT (id > 50))",
    ),
    "not": (~(col("name") == "bob"), "NOT (name = 'bob')"),
    "a name with a space": (col("sp ace") == 4, "`sp ace` = 4"),
    "a date": (col("day") >= DAY + datetime.timedelta(days=30), "day >= date '2024-03-02'"),
    "arithmetic": (col("id") * 2 + 1 > 60, "id * 2 + 1 > 60"),
    "a quote": (col("name") == "o'hara", "name = 'o''hara'"),
    "a double quote": (col("name") == 'say "hi"', "name = 'say \"hi\"'"),
    "float against null": (col("score") < 3.5, "score < 3.5"),
    "modulo": (col("id") % 7 == 3, "id % 7 = 3"),
    "a timestamp": (col("when") < datetime.datetime(2024, 1, 1, 5), "`when` < timestamp '2024-01-01 05:00:00'"),
    "nothing": (col("id") > 1000, "id > 1000"),
}


def lances_answer(table: str, sql: str) -> list[int]:
    return lance.dataset(table).to_table(columns=["id"], filter=sql)["id"].to_pylist()


@pytest.mark.parametrize("name", FILTERS)
def test_an_expression_gives_lances_answer(table, name):
    expression, sql = FILTERS[name]
    dataset = read_lance(table).filter(expr=expression)
    assert sorted(row["id"] for row in dataset.take_all()) == lances_answer(table, sql)
    assert dataset.count() == len(lances_answer(table, sql))


@pytest.mark.parametrize("name", FILTERS)
def test_sql_gives_lances_answer(table, name):
    _, sql = FILTERS[name]
    dataset = read_lance(table, filter=sql)
    assert sorted(row["id"] for row in dataset.take_all()) == lances_answer(table, sql)
    assert dataset.count() == len(lances_answer(table, sql))


@pytest.mark.fast_ways("_plans", "_pushdown")
def test_the_simple_ones_are_evaluated_by_lance(table):
    for name in ("int equality", "string equality", "in ints", "is null", "and/or nest", "a date", "arithmetic"):
        assert "(in Lance)" in ray_lance.explain(read_lance(table).filter(expr=FILTERS[name][0])), name


def test_what_lance_cannot_take_stays_with_ray(table):
    @udf(return_dtype=ray_lance_bool())
    def is_odd(ids: pa.Array) -> pa.Array:
        return pa.array([i % 2 == 1 for i in ids.to_pylist()])

    dataset = read_lance(table).filter(expr=is_odd(col("id")))
    assert "filter    (none)" in ray_lance.explain(dataset)
    assert sorted(row["id"] for row in dataset.take_all()) == list(range(1, ROWS, 2))


def ray_lance_bool():
    from ray.data.datatype import DataType

    return DataType.bool()


def test_what_lance_would_refuse_as_sql_is_right_as_an_expression(table):
    dataset = read_lance(table).filter(expr=col("id") > 56.5)
    assert sorted(row["id"] for row in dataset.take_all()) == [57, 58, 59]


def test_sql_and_expressions_together(table):
    dataset = read_lance(table, filter="id < 30").filter(expr=col("sp ace") == 1).filter(expr=col("id") > 5)
    assert sorted(row["id"] for row in dataset.take_all()) == [7, 13, 19, 25]


def test_expressions_one_after_another(table):
    dataset = read_lance(table).filter(expr=col("sp ace") == 1).filter(expr=col("id") > 5)
    assert sorted(row["id"] for row in dataset.take_all()) == list(range(7, ROWS, 6))


@pytest.mark.fast_ways("_plans", "_pushdown")
def test_expressions_see_what_columns_computes_not_what_is_stored_under_that_name(table):
    dataset = read_lance(table, columns={"id": "id * 2", "day": "day"})
    assert sorted(row["id"] for row in dataset.filter(expr=col("id") <= 6).take_all()) == [0, 2, 4, 6]
    assert dataset.filter(expr=col("id") > 60).count() == ROWS - 31
    stored = dataset.filter(expr=col("day") == DAY)
    assert "(in Lance)" in ray_lance.explain(stored)
    assert [row["id"] for row in stored.take_all()] == [0]


@pytest.mark.parametrize(
    "arguments", [{"filter": pc.field("id") < 9}, {"scanner_options": {"filter": pc.field("id") < 9}}]
)
def test_a_pyarrow_expression_is_a_filter_too(table, arguments):
    dataset = read_lance(table, **arguments)
    assert dataset.count() == 9
    assert sorted(row["id"] for row in dataset.filter(expr=col("sp ace") == 1).take_all()) == [1, 7]


def test_a_pyarrow_expression_on_a_column_that_does_not_exist_is_refused(table):
    with pytest.raises(ray_lance.InvalidArgumentError, match=r"filter=.*lable"):
        read_lance(table, filter=pc.field("lable") == 1)


def test_filters_on_columns_that_are_not_read(table):
    dataset = read_lance(table, columns=["name"], filter="id = 6")
    assert dataset.take_all() == [{"name": "bob"}]
    dataset = read_lance(table).filter(expr=col("id") == 6).select_columns(["name"])
    assert dataset.take_all() == [{"name": "bob"}]


def test_planned_rows_are_unknown_under_a_filter(table):
    tasks = read_lance(table, filter="id > 5")._logical_plan.dag.datasource.get_read_tasks(4)
    assert [task.metadata.num_rows for task in tasks] == [None] * len(tasks)
