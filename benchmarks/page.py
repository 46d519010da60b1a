"""Writes every benchmark's results on one page, RESULTS.md, and the figures that the README shows.

Usage: python benchmarks/page.py [--check]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PAGE = FOLDER / "RESULTS.md"
README = FOLDER.parent / "README.md"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"


@dataclass(frozen=True)
class Figure:
    """One line of the results in short: a ratio, found by benchmark, question and peer.

    Attributes:
        text: What the subject and the peer are.
        benchmark: Folder of the benchmark.
        question: Beginning of the question that was measured.
        peer: The contender that the subject is compared with.
        in_readme: Whether the README shows it too: a few, the losses among them.
    """

    text: str
    benchmark: str
    question: str
    peer: str
    in_readme: bool = False


FIGURES = (
    Figure(
        "`iter_torch_batches(1024)`, 1 M rows (int64, int64, float32[128]), 20 fragments, over `ray.data.read_lance`",
        "scan",
        "20 fragments",
        "ray.data.read_lance",
        in_readme=True,
    ),
    Figure("the same, over `lance_ray.read_lance`", "scan", "20 fragments", "lance_ray.read_lance"),
    Figure("the same rows in one fragment, over `ray.data.read_lance`", "scan", "1 fragment", "ray.data.read_lance"),
    Figure("1,024 fragments of one row, over `ray.data.read_lance`", "scan", "1,024", "ray.data.read_lance"),
    Figure(
        "one scalar column by `select_columns`, over `ray.data.read_lance`", "scan", "one scalar", "ray.data.read_lance"
    ),
    Figure(
        "one scalar column by `columns=`, over `ray.data.read_lance`",
        "scan",
        "one scalar",
        "ray.data.read_lance(columns=)",
    ),
    Figure(
        "`materialize()`, over a bare Lance scan in process",
        "scan",
        "materialize",
        "bare Lance scan (in process)",
        in_readme=True,
    ),
    Figure(
        "a shuffled epoch, over `random_shuffle()`",
        "shuffle",
        "through Ray: shuffled",
        "random_shuffle() over ray.data.read_lance",
        in_readme=True,
    ),
    Figure(
        "a shuffled epoch, over this library's sequential read",
        "shuffle",
        "through Ray: shuffled",
        "read_lance(uri), sequential",
    ),
    Figure(
        "the first batch of a shuffled epoch, over `random_shuffle()`",
        "shuffle",
        "through Ray: first",
        "random_shuffle() over ray.data.read_lance",
    ),
    Figure(
        "a shuffled epoch in process, over lancedb's `Permutation.iter` (arrow)",
        "shuffle",
        "in process",
        "lancedb Permutation.iter, arrow",
    ),
    Figure("`write_lance` of embeddings, over `lance_ray`", "write", "write embeddings", "lance_ray.write_lance"),
    Figure(
        "`write_lance` of embeddings, over a bare `lance.write_dataset`",
        "write",
        "write embeddings",
        "lance.write_dataset (in process)",
    ),
    Figure(
        "`add_columns`, the norm of a million vectors, over `lance_ray.add_columns_from`",
        "backfill",
        "norm",
        "lance_ray.add_columns_from",
    ),
    Figure(
        "`add_columns`, the norm of a million vectors, over `lance_ray.add_columns`",
        "backfill",
        "norm",
        "lance_ray.add_columns",
        in_readme=True,
    ),
    Figure("the same, over Lance's own `add_columns` in process", "backfill", "norm", "Lance add_columns (in process)"),
    Figure(
        "two train workers, shuffled, over Ray's split of `ray.data.read_lance` unshuffled",
        "ingest",
        "two train",
        "peer",
        in_readme=True,
    ),
    Figure(
        "`LanceIterableDataset` shuffled, second epoch on of rows that stay in memory, over `lance.torch` sequential",
        "ingest",
        "in process, whole",
        "lance.torch LanceDataset, sequential",
    ),
    Figure(
        "`LanceIterableDataset` shuffled, all epochs from storage, over `lance.torch` sequential",
        "ingest",
        "in process, from storage",
        "lance.torch LanceDataset, sequential",
        in_readme=True,
    ),
    Figure(
        "the same, with all rows in one fragment",
        "ingest",
        "in process, one fragment",
        "lance.torch LanceDataset, sequential",
    ),
    Figure(
        "`LanceIterableDataset` shuffled, over HuggingFace datasets shuffled",
        "ingest",
        "in process, HuggingFace",
        "HuggingFace datasets, shuffled",
    ),
    Figure(
        "`LanceIterableDataset` shuffled, over lancedb's `StreamingDataset`",
        "ingest",
        "in process, streaming",
        "lancedb StreamingDataset, shuffled",
    ),
    Figure(
        "`LanceMapDataset` with two loader workers, over `SafeLanceDataset`",
        "ingest",
        "map-style",
        "SafeLanceDataset, two workers",
    ),
    Figure(
        "30 ms per request, through Ray: a shuffled epoch, over the sequential read",
        "remote",
        "through Ray",
        "ray_lance.read_lance, sequential",
    ),
    Figure(
        "30 ms per request, in process: a shuffled epoch, over the sequential read",
        "remote",
        "in process",
        "LanceIterableDataset, sequential",
    ),
    Figure(
        "30 ms per request, in process: a shuffled epoch, over lancedb's `StreamingDataset`",
        "remote",
        "in process",
        "lancedb StreamingDataset, clumps of 64",
    ),
)


def pages() -> dict[str, dict[str, Any]]:
    """The results of each benchmark that has been run, by folder name."""
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*/results.json"))}


def results_page(results: dict[str, dict[str, Any]]) -> str:
    """All results as Markdown."""
    parts = ["# Results\n", "Written by `python benchmarks/page.py` from the `results.json` of each benchmark.\n"]
    parts += ["## In short\n", figures(results, FIGURES)]
    for name, page in results.items():
        parts += [f"## {name}\n", f"{machine_of(page)}. {page['note']}.\n"]
        parts += [text for result in page["results"] for text in result_lines(result)]
        parts += [f"![{path.stem}]({name}/{path.name})\n" for path in sorted((FOLDER / name).glob("*.png"))]
    return "\n".join(parts)


def result_lines(result: dict[str, Any]) -> Iterator[str]:
    """One question: its contenders with their median times, or its rows of other figures."""
    yield f"### {result['question']}\n"
    if "seconds" in result:
        ratios = {ratio["peer"]: ratio for ratio in result["ratios"]}
        yield "| contender | median s | the first one is faster by |\n|---|---|---|"
        for name, seconds in result["seconds"].items():
            yield f"| {name} | {statistics.median(seconds):.3f} | {ratio_text(ratios.get(name))} |"
        yield ""
    figures = {name: value for name, value in result.items() if name not in ("question", "rows") and _is_figure(value)}
    for name, value in figures.items():
        yield f"- {name}: {', '.join(map(number_text, value if isinstance(value, list) else [value]))}"
    if figures:
        yield ""
    for rows in (
        value for value in result.values() if isinstance(value, list) and value and isinstance(value[0], dict)
    ):
        if rows is result.get("ratios"):
            continue
        yield "| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|"
        for row in rows:
            yield "| " + " | ".join(number_text(value) for value in row.values()) + " |"
        yield ""


def _is_figure(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, list) and all(isinstance(v, float) for v in value))


def figures(results: dict[str, dict[str, Any]], chosen: Sequence[Figure]) -> str:
    """A table with a line for each figure whose benchmark has been run."""
    lines = ["| what | ratio |", "|---|---|"]
    for figure in chosen:
        ratio = find(results, figure)
        if ratio is not None:
            lines.append(f"| {figure.text} | {ratio_text(ratio)} |")
    machines = sorted({machine_of(page) for page in results.values()})
    return "\n".join([*lines, "", f"Median, lowest and highest. {'; '.join(machines)}.", ""])


def find(results: dict[str, dict[str, Any]], figure: Figure) -> dict[str, Any] | None:
    """The ratio that a figure names; None if its benchmark has not been run.

    Raises:
        LookupError: The benchmark has been run and holds no such ratio.
    """
    if figure.benchmark not in results:
        return None
    for result in results[figure.benchmark]["results"]:
        if result["question"].startswith(figure.question):
            for ratio in result["ratios"]:
                if ratio["peer"] == figure.peer:
                    return dict(ratio)
    raise LookupError(f"no result for {figure}")


def machine_of(page: dict[str, Any]) -> str:
    """The machine and the versions, in one line."""
    machine, versions = page["machine"], page["versions"]
    what = ", ".join(f"{name} {versions[name]}" for name in ("ray", "pylance", "pyarrow", "torch"))
    return f"{machine['system']}, {machine['cores']} cores, {machine['memory_gib']} GiB; {what}"


def ratio_text(ratio: dict[str, Any] | None) -> str:
    """A ratio with its spread."""
    return "-" if ratio is None else f"{ratio['median']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})"


def number_text(value: Any) -> str:
    """A cell of a table of figures."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"


def with_figures(readme: str, table: str) -> str:
    """The README with its table of figures replaced."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + table + END + rest.split(END)[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    check = parser.parse_args().check
    results = pages()
    wanted = {
        PAGE: results_page(results),
        README: with_figures(README.read_text(), figures(results, [each for each in FIGURES if each.in_readme])),
    }
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        print(f"{path.name} is out of date" if check else f"{path.name} written")
        if not check:
            path.write_text(wanted[path])
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
