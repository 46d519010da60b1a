"""``python -m ray_lance``: what it prints, and what it says of input that cannot work. No Ray is started."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import lance
import pyarrow as pa
import pytest

import ray_lance
from ray_lance.cli import main
from ray_lance.data.explain import Explanation
from ray_lance.errors import InvalidArgumentError
from ray_lance.measure import MeasureOptions, measure
from ray_lance.order import DenseRows, RowPermutation, measure_quality
from ray_lance.permutation import Permutation
from tests.datasets import sample_table, write_fragments
from tests.s3 import SECRET as S3_SECRET
from tests.s3 import s3_server

SECRET = "hunter2-and-more"


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    place = str(tmp_path_factory.mktemp("cli") / "rows.lance")
    write_fragments(place, [700, 300], deleted="id = 5")
    return place


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_explain_says_what_a_read_would_do(uri, capsys):
    code, out, err = run(capsys, "explain", uri, "--columns", "id,vec", "--filter", "id < 10", "--version", "3")

    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["columns"].startswith("id: int64, vec: ")
    assert lines["filter"] == "id < 10 (in Lance)"
    assert "version=3" in lines["reads"]
    assert lines["order"] == "scan order"


def test_explain_as_json_counts_live_rows(uri, capsys):
    code, out, _ = run(capsys, "explain", uri, "--json")

    found = json.loads(out)
    assert (code, found["rows"], found["tasks"], found["quality"]) == (0, 999, 1, None)


def test_explain_measures_a_shuffle_of_the_rows_that_a_filter_chooses(uri, capsys):
    code, out, _ = run(capsys, "explain", uri, "--shuffle", "7", "--filter", "label = 3", "--json")

    found = json.loads(out)
    assert (code, found["rows"]) == (0, 100)
    assert found["order"].startswith("rows where label = 3, shuffled with seed 7")
    assert found["quality"]["clumps_per_window"] >= 1


def test_explain_says_what_clump_and_window_mean(uri, capsys):
    _, out, _ = run(capsys, "explain", uri, "--shuffle", "7")

    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["clump"] == "1 row: each is placed by itself"
    assert lines["window"].startswith("1 position: ")
    assert "as uneven as a true shuffle's" in lines["mixing"]
    shuffled = Explanation((), (), None, 9, 8.0, 1, 9, "shuffled", "", measure_quality_of(4, 1024), 4, 1024)
    text = str(shuffled)
    assert "clump     4 neighbouring rows, which are read, and placed, together" in text
    assert "window    1,024 positions, within which single rows are mixed once more" in text


def measure_quality_of(clump: int, window: int):
    return measure_quality(RowPermutation(DenseRows(9000)).shuffle(1, clump, window))


def test_explain_plans_for_the_cluster_that_is_named(tmp_path, capsys):
    place = str(tmp_path / "wide.lance")
    values = pa.array(range(4_000_000), pa.int64())
    lance.write_dataset(pa.table({"a": values}), place, max_rows_per_file=len(values))

    counts = [
        json.loads(run(capsys, "explain", place, "--json", "--cpus", cpus)[1])["tasks"] for cpus in ("1", "2", "64")
    ]

    assert counts[0] < counts[1] < counts[2]


def test_explain_of_a_shuffle_without_rows(uri, capsys):
    code, out, _ = run(capsys, "explain", uri, "--shuffle", "7", "--filter", "id < 0", "--json")

    assert (code, json.loads(out)["rows"], json.loads(out)["tasks"]) == (0, 0, 0)


def test_bench_measures_every_shuffle_once(uri, capsys):
    code, out, err = run(
        capsys, "bench", uri, "--seconds", "0.01", "--clumps", "auto,1,4", "--windows", "auto,64", "--json"
    )

    found = json.loads(out)
    shuffles = [measurement["shuffle"] for measurement in found["measurements"]]
    assert code == 0
    assert shuffles[0] is None
    assert [(each["clump"], each["window"]) for each in shuffles[1:]] == [(1, 1), (1, 64), (4, 1000), (4, 64)]
    assert [each["is_auto"] for each in found["measurements"]] == [False, True, False, False, False]
    assert all(each["speed"]["rows"] >= 999 for each in found["measurements"])
    assert all(each["rows_per_second"] > 0 for each in found["measurements"])
    assert err.splitlines()[0] == "measuring 1 of 5: sequential"
    assert len(err.splitlines()) == 5


def test_bench_prints_a_table(uri, capsys):
    code, out, _ = run(
        capsys, "bench", uri, "--seconds", "0.01", "--clumps", "8", "--columns", "id", "--format", "arrow"
    )

    lines = out.splitlines()
    assert code == 0
    assert lines[1].startswith("999 rows of 8 bytes (id), batches of 1,024 as arrow, prefetch 3")
    assert " ".join(lines[3].split()) == "clump window rows/s MiB/s of sequential first batch sorted data worst case"
    assert lines[4].split()[0] == "sequential"
    assert lines[5].split()[0] == "8"
    assert len({len(line) for line in lines[3:6]}) == 1


def test_bench_draws_a_bar_on_a_terminal(uri, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)

    _, _, err = run(capsys, "bench", uri, "--seconds", "0.01", "--clumps", "8", "--columns", "id")

    assert "\r[------------------------] 1 of 2: sequential" in err
    assert "] 2 of 2: shuffled, clump 8" in err
    assert err.endswith("\r\033[K")


def test_each_way_of_reading_stops_when_its_share_of_the_time_is_over(uri):
    ticks = iter(range(10**6))
    options = MeasureOptions(columns=("id",), batch_size=100, clumps=(1, 4), seconds=60.0)

    measurements = measure(Permutation(uri), options, clock=lambda: float(next(ticks)))

    # A share of 20 ticks, one for each batch: two passes of ten batches.
    assert [each.speed.seconds for each in measurements] == [20.0] * 3
    assert [each.speed.rows for each in measurements] == [1998] * 3
    assert [each.speed.first_batch_s for each in measurements] == [1.0] * 3


def test_measuring_tells_how_far_it_is(uri):
    ticks = iter(range(10**6))
    told = []
    options = MeasureOptions(columns=("id",), batch_size=500, clumps=(4,), seconds=8.0)

    measure(Permutation(uri), options, lambda *what: told.append(what), clock=lambda: float(next(ticks)))

    name = "shuffled, clump 4, window 1,000"
    expected = [(2, number, what, part / 4) for number, what in ((0, "sequential"), (1, name)) for part in range(4)]
    assert told == expected


ERRORS = {
    "no command": ([], "explain,bench"),
    "unknown command": (["benhc", "URI"], "invalid choice"),
    "no uri": (["explain"], "URI"),
    "too many arguments": (["explain", "URI", "other"], "an argument too many"),
    "unknown option": (["bench", "URI", "--secnds=3"], "--secnds"),
    "shortened option": (["explain", "URI", "--filt", "id = 1"], "--filt"),
    "no dataset": (["explain", "/nowhere/rows.lance"], "uri: there is no Lance dataset at /nowhere/rows.lance"),
    "empty uri": (["explain", ""], "uri=''"),
    "unknown scheme": (["explain", "nosuch://place/rows.lance"], "knows no storage of this scheme"),
    "columns: unknown": (["explain", "URI", "--columns", "ids"], "Did you mean 'id'?"),
    "columns: unknown, bench": (["bench", "URI", "--columns", "ids"], "Did you mean 'id'?"),
    "columns: empty": (["explain", "URI", "--columns", "id,,vec"], "--columns"),
    "columns: twice": (["explain", "URI", "--columns", "id,id"], "names a column twice"),
    "filter: column": (["explain", "URI", "--filter", "nosuch = 1"], "nosuch"),
    "filter: syntax": (["bench", "URI", "--filter", "id ="], "filter='id ='"),
    "filter: empty": (["explain", "URI", "--filter", ""], "filter=''"),
    "filter: no rows": (["bench", "URI", "--filter", "id < 0"], "there is no row to read"),
    "version: gone": (["explain", "URI", "--version", "99"], "versions kept: 1 to 4"),
    "version: tag": (["explain", "URI", "--version", "best"], "version='best'"),
    "version: zero": (["explain", "URI", "--version", "0"], "version=0 must be at least 1"),
    "shuffle": (["explain", "URI", "--shuffle", "x"], "--shuffle: 'x' must be a whole number"),
    "cpus": (["explain", "URI", "--cpus", "0"], "--cpus: '0' must be at least 1"),
    "seconds: word": (["bench", "URI", "--seconds", "soon"], "--seconds"),
    "seconds: zero": (["bench", "URI", "--seconds", "0"], "seconds=0.0 must be a time of more than 0"),
    "seconds: endless": (["bench", "URI", "--seconds", "inf"], "seconds=inf"),
    "clumps: word": (["bench", "URI", "--clumps", "few"], "--clumps: 'few' must be numbers of rows"),
    "clumps: zero": (["bench", "URI", "--clumps", "0,16"], "--clumps"),
    "windows: negative": (["bench", "URI", "--windows=-4"], "--windows"),
    "windows: not nested": (["bench", "URI", "--clumps", "16", "--windows", "40"], "window=32 or 48"),
    "batch size": (["bench", "URI", "--batch-size", "0"], "--batch-size: '0' must be at least 1"),
    "format": (["bench", "URI", "--format", "avro"], "format='avro' must be one of"),
    "prefetch": (["bench", "URI", "--prefetch", "-1"], "--prefetch: '-1' must be at least 0"),
    "storage option": (["explain", "URI", "--storage-option", SECRET], "--storage-option: must be KEY=VALUE"),
    "storage option apart": (["explain", "URI", "--storage-option", "key=x", SECRET], "an argument too many"),
    "storage option misspelt": (["explain", "URI", f"--storage_option=key={SECRET}"], "--storage_option"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_one_line_that_names_the_argument(name, uri, capsys):
    arguments, expected = ERRORS[name]

    code, out, err = run(capsys, *(uri if argument == "URI" else argument for argument in arguments))

    assert (code, out) == (2, "")
    assert err.startswith("python -m ray_lance: ")
    assert err.count("\n") == 1
    assert expected in err
    assert SECRET not in err


def test_the_version_of_the_library(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"ray_lance {ray_lance.__version__}\n"


def test_null_integers_are_measured_as_zeros(tmp_path, capsys):
    place = str(tmp_path / "nulls.lance")
    lance.write_dataset(pa.table({"a": pa.array([1, 2, None]), "ok": pa.array([True, None, False])}), place)

    code, out, _ = run(capsys, "bench", place, "--seconds", "0.01", "--batch-size", "2")
    _, text, _ = run(capsys, "bench", place, "--seconds", "0.01", "--json")
    _, other, _ = run(capsys, "bench", place, "--seconds", "0.01", "--format", "arrow")

    assert code == 0
    assert "as torch, nulls as 0, prefetch" in out
    assert all(each["is_filled"] for each in json.loads(text)["measurements"])
    assert "nulls as 0" not in other


def test_what_is_no_tensor_is_said_with_the_way_out(tmp_path, capsys):
    place = str(tmp_path / "texts.lance")
    lance.write_dataset(pa.table({"a": pa.array(["x", "y"])}), place)

    code, _, err = run(capsys, "bench", place, "--seconds", "0.01", "--format", "torch_row")
    ok, _, _ = run(capsys, "bench", place, "--seconds", "0.01", "--format", "arrow")

    assert code == 2
    assert "'a'" in err
    assert "--format" in err
    assert ok == 0


@pytest.mark.parametrize("output", [[], ["--json"]])
@pytest.mark.parametrize("command", [["explain"], ["bench", "--seconds", "0.01", "--clumps", "8"]])
def test_values_of_storage_options_are_never_shown(command, output, uri, capsys):
    name, *rest = command
    options = ["--storage-option", f"secret_access_key={SECRET}", "--storage-option", "region=nowhere-west-9"]

    code, out, err = run(capsys, name, uri, *rest, *options, *output)

    assert code == 0
    assert "secret_access_key" in out
    assert SECRET not in out + err
    assert "nowhere-west-9" not in out + err


def test_an_object_store_is_reached_with_storage_options(capsys):
    with s3_server() as s3:
        place = s3.uri("rows.lance")
        lance.write_dataset(sample_table(100), place, storage_options=s3.storage_options)
        options = [part for item in s3.storage_options.items() for part in ("--storage-option", "=".join(item))]
        rest = ["--seconds", "0.01", "--clumps", "4", "--json"]

        code, out, err = run(capsys, "bench", place, *rest, *options)
        missing = run(capsys, "explain", s3.uri("other.lance"), *options)

    found = json.loads(out)
    assert (code, found["rows"], len(found["measurements"])) == (0, 100, 2)
    assert missing[0] == 2
    assert f"there is no Lance dataset at {s3.uri('other.lance')}" in missing[2]
    assert S3_SECRET not in out + err + missing[1] + missing[2]


def test_values_of_storage_options_are_not_shown_in_errors_and_log_lines(uri, capsys, monkeypatch):
    def failing(*_):
        logging.getLogger("ray_lance.retry").warning("again: denied for %s", SECRET)
        raise OSError(f"LanceError(IO): the key {SECRET} is unknown,\n  at line 2")

    monkeypatch.setattr("ray_lance.cli._table", failing)

    code, out, err = run(capsys, "explain", uri, "--storage-option", f"key={SECRET}")

    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "python -m ray_lance: again: denied for ***",
        "python -m ray_lance: LanceError(IO): the key *** is unknown, at line 2",
    ]


def test_an_interrupt_ends_quietly(uri, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ray_lance.cli._table", interrupted)

    assert run(capsys, "explain", uri) == (130, "", "")


@pytest.mark.parametrize("options", [{"seconds": 0.0}, {"seconds": float("nan")}, {"clumps": ()}, {"batch_size": 0}])
def test_options_of_a_measurement_are_checked(options):
    with pytest.raises(InvalidArgumentError, match=next(iter(options))):
        MeasureOptions(**options)


def test_it_runs_as_a_module(tmp_path):
    place = str(tmp_path / "rows.lance")
    lance.write_dataset(sample_table(10), place)
    command = [sys.executable, "-m", "ray_lance", "bench", place, "--seconds", "0.01", "--clumps", "1", "--json"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)
    failed = subprocess.run([*command[:4], place + "x"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 10
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.count("\n") == 1
    assert "there is no Lance dataset" in failed.stderr
