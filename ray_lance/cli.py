"""The command line: arguments in, text or JSON out. Says what a read would do, and how fast it is on this machine."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ray_lance import __version__
from ray_lance.errors import InvalidArgumentError, RayLanceError, TensorConversionError
from ray_lance.masking import mask, remember

if TYPE_CHECKING:
    from ray_lance.measure import Measurement, MeasureOptions
    from ray_lance.table import TableRef

__all__ = ["main"]

T = TypeVar("T")

_PROGRAM = "python -m ray_lance"
_FAILED, _INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: What follows ``python -m ray_lance``; None takes it from the command line.

    Returns:
        The exit code: 0, or 2 after an error, which is one line on stderr.
    """
    try:
        parsed = _parse(arguments)
    except InvalidArgumentError as error:
        return _fail(str(error))
    remember(parsed.uri, dict(parsed.storage_option))
    with _masked_log():
        try:
            output = parsed.command(parsed)
        except KeyboardInterrupt:
            return _INTERRUPTED
        except TensorConversionError as error:
            return _fail(mask(f"{error}; or measure other --columns, or another --format, such as arrow"))
        except (RayLanceError, OSError, ValueError, RuntimeError) as error:  # the last three are what Lance raises
            return _fail(mask(str(error)))
    print(output)  # noqa: T201  the result
    return 0


def _explain(arguments: argparse.Namespace) -> str:
    from ray_lance.data.preview import preview  # takes seconds to import, which --help need not wait for

    columns, cpus = arguments.columns, arguments.cpus or os.cpu_count() or 1
    found = preview(_table(arguments), columns, arguments.filter, arguments.shuffle, cpus)
    return json.dumps(asdict(found), indent=2) if arguments.json else str(found)


def _bench(arguments: argparse.Namespace) -> str:
    from ray_lance.measure import MeasureOptions, bytes_per_row, measure
    from ray_lance.permutation import Permutation

    options = MeasureOptions(
        columns=arguments.columns,
        batch_size=arguments.batch_size,
        format=arguments.format,
        prefetch=arguments.prefetch,
        clumps=arguments.clumps,
        windows=arguments.windows,
        seconds=arguments.seconds,
    )
    permutation = Permutation(_table(arguments), arguments.filter)
    row_bytes = bytes_per_row(permutation, options.columns)
    with _Progress() as progress:
        measurements = measure(permutation, options, progress.show)
    show = _bench_json if arguments.json else _bench_text
    return show(permutation.table, len(permutation), row_bytes, options, measurements)


def _bench_json(
    table: TableRef, rows: int, row_bytes: float, options: MeasureOptions, measurements: Sequence[Measurement]
) -> str:
    found = {
        "table": repr(table),
        "columns": options.columns,
        "rows": rows,
        "row_bytes": row_bytes,
        "batch_size": options.batch_size,
        "format": options.format,
        "prefetch": options.prefetch,
        "measurements": [_measurement_json(measurement) for measurement in measurements],
    }
    return json.dumps(found, indent=2)


def _measurement_json(measurement: Measurement) -> dict[str, Any]:
    return {**asdict(measurement), "rows_per_second": measurement.speed.rows_per_second}


def _bench_text(
    table: TableRef, rows: int, row_bytes: float, options: MeasureOptions, measurements: Sequence[Measurement]
) -> str:
    sequential = measurements[0].speed.rows_per_second
    head = ("clump", "window", "rows/s", "MiB/s", "of sequential", "first batch", "sorted data", "worst case")
    lines = [head]
    for each in measurements:
        speed = each.speed.rows_per_second
        shuffle, quality = each.shuffle, each.quality
        lines.append(
            (
                "sequential" if shuffle is None else f"{'auto: ' if each.is_auto else ''}{shuffle.clump:,}",
                "-" if shuffle is None else f"{shuffle.window:,}",
                f"{speed:,.0f}",
                f"{speed * row_bytes / 2**20:,.1f}",
                f"{speed / sequential:.2f}x",
                f"{each.speed.first_batch_s * 1000:,.0f} ms",
                "-" if quality is None else f"{quality.sorted_label_ratio:.2f}x",
                "-" if quality is None else f"{quality.clumped_label_ratio:.2f}x",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    cells = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    columns = "all columns" if options.columns is None else ", ".join(options.columns)
    return "\n".join(
        [
            f"{table!r}",
            f"{rows:,} rows of {row_bytes:,.0f} bytes ({columns}), batches of {options.batch_size:,} as "
            f"{options.format}{', nulls as 0' if measurements[0].is_filled else ''}, prefetch {options.prefetch}, "
            "read in one process",
            "",
            *cells,
            "",
            "The last two columns: how far label histograms of batches are from uniform, over a true shuffle's",
            "(perfect is 1.00x), where rows are sorted by label, and where each clump has one label of its own.",
        ]
    )


def _table(arguments: argparse.Namespace) -> TableRef:
    from ray_lance.table_arguments import TableArguments

    storage_options = dict(arguments.storage_option) or None
    (table,) = TableArguments(arguments.uri, storage_options, version=arguments.version).to_read()
    return table


class _Parser(argparse.ArgumentParser):
    """Reports errors as this library does, and never repeats what may be a secret."""

    def error(self, message: str) -> NoReturn:
        raise InvalidArgumentError(f"{message} (see {self.prog} --help)")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parsed, unknown = _parser().parse_known_args(arguments)
    if unknown:
        # What follows "=", or an option, may be the value of a storage option.
        named = [text.partition("=")[0] for text in unknown if text.startswith("-")]
        what = f"there is no option {', '.join(named)}" if named else "there is an argument too many after the URI"
        raise InvalidArgumentError(f"{what} (see {_PROGRAM} {parsed.name} --help)")
    return parsed


def _parser() -> _Parser:
    parser = _Parser(prog=_PROGRAM, description="Looks at a Lance dataset as ray_lance would read it.")
    parser.add_argument("--version", action="version", version=f"ray_lance {__version__}")
    commands = parser.add_subparsers(dest="name", metavar="{explain,bench}", required=True)
    explain = _command(commands, "explain", _explain, "say what a read would do, in how many tasks, and why")
    explain.add_argument("--shuffle", metavar="SEED", type=_integer, help="explain the read of a shuffle")
    explain.add_argument(
        "--cpus", metavar="N", type=_at_least_one, help="CPUs of the cluster to plan for (default: this machine's)"
    )
    bench = _command(commands, "bench", _bench, "measure reads of the data in this process, in order and shuffled")
    bench.add_argument(
        "--seconds", metavar="N", type=float, default=20.0, help="time for all measurements together (default: 20)"
    )
    sizes = "rows, separated by commas, or auto"
    bench.add_argument(
        "--clumps", metavar="A,B", type=_sizes, default="auto,1,16,64,256", help=f"{sizes} (default: %(default)s)"
    )
    bench.add_argument("--windows", metavar="A,B", type=_sizes, default="auto", help=f"{sizes} (default: %(default)s)")
    bench.add_argument("--batch-size", metavar="N", type=_at_least_one, default=1024, help="rows (default: 1024)")
    bench.add_argument("--format", default="torch", help="form of the batches, such as torch or arrow (default: torch)")
    bench.add_argument("--prefetch", metavar="N", type=_not_negative, default=3, help="reads begun ahead (default: 3)")
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], str], text: str) -> argparse.ArgumentParser:
    """A command with the arguments that say what to read."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False
    )
    command.set_defaults(command=run)
    command.add_argument("uri", metavar="URI", help="path or URI of a Lance dataset")
    command.add_argument("--columns", metavar="A,B", type=_names, help="columns to read (default: all)")
    command.add_argument("--filter", metavar="SQL", help="condition on the rows")
    command.add_argument("--version", metavar="N", type=_version, help="version number or tag (default: the latest)")
    command.add_argument("--storage-option", metavar="KEY=VALUE", type=_option, action="append", default=[])
    command.add_argument("--json", action="store_true", help="print JSON")
    return command


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r} must be names of columns, separated by commas, such as image,label")
    return names


def _sizes(text: str) -> tuple[int | str, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part == "auto" or (part.isdecimal() and int(part)) for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} must be numbers of rows of at least 1, or auto, such as auto,16,64")
    return tuple(part if part == "auto" else int(part) for part in parts)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, such as 7") from None


def _at_least_one(text: str) -> int:
    if (number := _integer(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be at least 1")
    return number


def _not_negative(text: str) -> int:
    if (number := _integer(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} must be at least 0")
    return number


def _version(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text


def _option(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not (key and separator):  # the text is not shown: it may be a secret without its name
        raise argparse.ArgumentTypeError("must be KEY=VALUE, such as region=eu-west-1 (what was given is not shown)")
    return key, value


class _MaskedFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


@contextmanager
def _masked_log() -> Iterator[None]:
    """Show what the library logs, such as a read that is tried again, without storage options' values."""
    logger, handler = logging.getLogger("ray_lance"), logging.StreamHandler()
    handler.setFormatter(_MaskedFormatter(f"{_PROGRAM}: %(message)s"))
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate


class _Progress:
    """A bar on stderr where that is a terminal; otherwise a line for each measurement."""

    _WIDTH = 24

    def __init__(self) -> None:
        self._last = (-1, -1)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if sys.stderr.isatty():
            sys.stderr.write("\r\033[K")

    def show(self, count: int, number: int, name: str, part: float) -> None:
        """Show that of measurement ``number`` of ``count`` a part is done; see :data:`ray_lance.measure.Report`."""
        is_terminal = sys.stderr.isatty()
        done = int((number + part) / count * self._WIDTH) if is_terminal else 0
        if self._last == (number, done):
            return
        self._last = (number, done)
        if is_terminal:
            bar = "#" * done + "-" * (self._WIDTH - done)
            sys.stderr.write(f"\r[{bar}] {number + 1} of {count}: {name}\033[K")
        else:
            sys.stderr.write(f"measuring {number + 1} of {count}: {name}\n")
        sys.stderr.flush()


def _fail(message: str) -> int:
    sys.stderr.write(f"{_PROGRAM}: {' '.join(message.split())}\n")
    return _FAILED
