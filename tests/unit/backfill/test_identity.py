"""What tells computations apart: the same in every process, another for whatever makes another result."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import pathlib
import re
import subprocess
import sys
import textwrap
import threading
import types
import uuid
import zoneinfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from ray_lance.backfill.identity import parts_of
from ray_lance.errors import InvalidArgumentError


def defined(source: str, name: str = "fn", **names):
    """What ``name`` is after a cell of a notebook with this source has run."""
    namespace = {"__name__": "__main__", "np": np, "functools": functools, **names}
    exec(textwrap.dedent(source), namespace)
    return namespace[name]


def changed(one, other) -> set[str]:
    """Names of the parts in which two functions differ."""
    first, second = parts_of(one, {}), parts_of(other, {})
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}


CELLS = {
    "code": "def fn(batch): return {'x': batch['id'] + K}",
    "constant": "def fn(batch): return {'x': batch['id'] * 2}",
    "closure": "def make(k):\n    return lambda batch: {'x': batch['id'] * k}\nfn = make(K)",
    "closure of closures": (
        "def make(k):\n    def inner(x): return x * k\n    return lambda batch: {'x': inner(batch['id'])}\nfn = make(K)"
    ),
    "default": "def fn(batch, k=K): return {'x': batch['id'] * k}",
    "keyword default": "def fn(batch, *, k=K): return {'x': batch['id'] * k}",
    "global": "k = K\ndef fn(batch): return {'x': batch['id'] * k}",
    "function it calls": "def g(x): return x * K\ndef fn(batch): return {'x': g(batch['id'])}",
    "global of a function it calls": "k = K\ndef g(x): return x * k\ndef fn(batch): return {'x': g(batch['id'])}",
    "class it uses": "class A:\n    k = K\ndef fn(batch): return {'x': batch['id'] * A.k}",
    "attribute of the function": "def fn(batch): return {'x': batch['id'] * fn.k}\nfn.k = K",
    "state": (
        "class F:\n    def __init__(self, k): self.k = k\n    def __call__(self, batch): return self.k\nfn = F(K)"
    ),
    "state in slots": (
        "class F:\n    __slots__ = ('k',)\n    def __call__(self, batch): return {'x': self.k}\nfn = F()\nfn.k = K"
    ),
    "code of a callable object": "class F:\n    def __call__(self, batch): return {'x': K}\nfn = F()",
    "owner of a method": (
        "class F:\n    def __init__(self, k): self.k = k\n    def go(self, batch): return {'x': self.k}\nfn = F(K).go"
    ),
    "owner of a class method": (
        "class F:\n    k = K\n    @classmethod\n    def go(cls, batch): return {'x': cls.k}\nfn = F.go"
    ),
    "class": "class fn:\n    def __call__(self, batch): return {'x': batch['id'] * K}",
    "base class": "class A:\n    k = K\nclass fn(A):\n    def __call__(self, batch): return {'x': self.k}",
    "property": "class fn:\n    @property\n    def k(self): return K\n    def __call__(self, batch): return self.k",
    "cached property": (
        "class fn:\n    @functools.cached_property\n    def k(self): return K\n"
        "    def __call__(self, batch): return {'x': self.k}"
    ),
    "partial": "def f(batch, k): return {'x': batch['id'] * k}\nfn = functools.partial(f, k=K)",
    "decorated": (
        "def double(f):\n    @functools.wraps(f)\n    def g(batch): return f(f(batch))\n    return g\n"
        "@double\ndef fn(batch): return {'x': batch['x'] * K}"
    ),
    "cached": "@functools.lru_cache\ndef g(x): return x * K\ndef fn(batch): return {'x': g(batch['id'])}",
    "recursion": "def fn(batch, n=3): return fn(batch, n - 1) if n else {'x': batch['id'] * K}",
    "mutual recursion": (
        "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n == K or even(n - 1)\n"
        "def fn(batch): return {'x': even(batch['id'])}"
    ),
    "a set in the code": "def fn(batch): return {'x': [i in {'a', 'b', K} for i in batch['id']]}",
}


@pytest.mark.parametrize("cell", CELLS)
def test_whatever_changes_what_a_function_does_is_noticed(cell):
    two, again, five = (defined(CELLS[cell].replace("K", number)) for number in ("2", "2", "5"))

    if cell == "constant":
        five = defined(CELLS[cell].replace("2", "5"))
    assert changed(two, again) == set()
    assert changed(two, five)


def test_what_differs_is_named():
    make = defined("def make(rate, name):\n    return lambda batch, n=1: {'x': batch['id'] * rate, name: n}", "make")

    assert changed(make(2, "y"), make(3, "y")) == {"fn's variable 'rate'"}
    assert changed(make(2, "y"), make(3, "z")) == {"fn's variable 'rate'", "fn's variable 'name'"}
    assert changed(defined(CELLS["global"].replace("K", "2")), defined(CELLS["global"].replace("K", "3"))) == {
        "fn's global 'k'"
    }
    assert changed(defined(CELLS["state"].replace("K", "2")), defined(CELLS["state"].replace("K", "3"))) == {
        "fn's attribute 'k'"
    }


def test_where_a_function_was_written_does_not_matter():
    source = "def fn(batch):\n    return {'x': [x + 1 for x in batch['id']]}"

    assert changed(defined(source), defined("# a comment\n\n\n" + source)) == set()


def test_modules_of_the_user_count_by_what_is_used_of_them(monkeypatch):
    helper = types.ModuleType("my_helper")
    monkeypatch.setitem(sys.modules, "my_helper", helper)
    source = "def fn(batch): return {'x': my_helper.scale(batch['id'])}"

    def with_helper(text: str) -> dict[str, str]:
        vars(helper).clear()
        helper.__name__ = "my_helper"
        exec(text, vars(helper))
        return parts_of(defined(source, my_helper=helper), {})

    before = with_helper("def scale(x): return x * 2\ndef other(x): return 1")
    assert with_helper("def scale(x): return x * 2\ndef other(x): return 2") == before
    assert with_helper("def scale(x): return x * 3\ndef other(x): return 1") != before
    assert with_helper("K = 2\ndef scale(x): return x * K\n") != with_helper("K = 3\ndef scale(x): return x * K\n")


def test_what_a_function_loads_for_itself_does_not_count():
    source = """
    model = None
    def fn(batch):
        global model
        model = model or (lambda x: x)
        return {'x': model(batch['id'])}
    """
    fresh, used = defined(source), defined(source)
    used({"id": 1})

    assert changed(fresh, used) == set()


def test_globals_that_cannot_be_sent_count_by_their_type():
    source = "def fn(batch):\n    with lock: return batch"

    lock, event = threading.Lock(), threading.Event()
    assert changed(defined(source, lock=lock), defined(source, lock=threading.Lock())) == set()
    assert changed(defined(source, lock=lock), defined(source, lock=event))


def test_calling_a_cached_function_changes_nothing():
    fn = defined(CELLS["cached"].replace("K", "2"))
    before = parts_of(fn, {})

    fn({"id": 3})

    assert parts_of(fn, {}) == before


def test_values_that_cannot_be_compared_are_refused_by_name():
    class Handle:
        def __reduce__(self):
            raise TypeError("a handle of this process")

    with pytest.raises(InvalidArgumentError, match=r"fn_args: a .*Handle cannot be compared"):
        parts_of(len, {"fn_args": [Handle()]})


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Settings:
    rate: float
    names: tuple[str, ...] = ()


class Model(torch.nn.Module):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        with torch.no_grad():
            self.layer.weight.fill_(weight)
            self.layer.bias.fill_(0)


VALUES = [
    lambda: 2,
    lambda: 2.0,
    lambda: True,
    lambda: "2",
    lambda: b"2",
    lambda: bytearray(b"2"),
    lambda: None,
    lambda: ...,
    lambda: 2j,
    lambda: 10**5000,
    lambda: float("nan"),
    lambda: "\ud800",
    lambda: [1, 2],
    lambda: (1, 2),
    lambda: {1, 2},
    lambda: {"a", "b", "c"},
    lambda: frozenset({1, 2}),
    lambda: {"a": 1, "b": 2},
    lambda: {"a": 2, "b": 1},
    lambda: {"a": {"b": [1, {"c"}]}},
    lambda: range(3),
    lambda: slice(3),
    lambda: np.float32(2),
    lambda: np.float32(5),
    lambda: np.float64(2),
    lambda: np.arange(4),
    lambda: np.arange(4.0),
    lambda: np.arange(4).reshape(2, 2),
    lambda: np.arange(4)[::-1],
    lambda: np.array(["a", None], object),
    lambda: np.array(["a", "b"]),
    lambda: np.array("2020-01-01", "M8[s]"),
    lambda: np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
    lambda: np.zeros((0, 3)),
    lambda: np.ma.masked_array([1, 2], [True, False]),
    lambda: np.dtype("f4"),
    lambda: np.float32,
    lambda: np.random.default_rng(3),
    lambda: np.random.default_rng(4),
    lambda: torch.zeros(2),
    lambda: torch.ones(2),
    lambda: torch.zeros(2, dtype=torch.bfloat16),
    lambda: torch.tensor(1),
    lambda: torch.nn.Parameter(torch.zeros(2)),
    lambda: torch.zeros(2).untyped_storage(),
    lambda: torch.eye(2).to_sparse(),
    lambda: torch.float16,
    lambda: torch.device("cpu"),
    lambda: Model(1.0),
    lambda: Model(2.0),
    lambda: pathlib.Path("a"),
    lambda: pathlib.Path("b"),
    lambda: datetime.date(2020, 1, 1),
    lambda: datetime.date(2020, 1, 2),
    lambda: datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
    lambda: datetime.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Zurich")),
    lambda: datetime.timedelta(1),
    lambda: decimal.Decimal("1.0"),
    lambda: decimal.Decimal("1.00"),
    lambda: uuid.UUID(int=1),
    lambda: re.compile("a"),
    lambda: re.compile("a", re.IGNORECASE),
    lambda: Colour.RED,
    lambda: Colour.BLUE,
    lambda: Settings(1.0),
    lambda: Settings(1.0, ("a",)),
    lambda: types.SimpleNamespace(a=1),
    lambda: functools.partial(len, [1]),
    lambda: [1].append,
    lambda: len,
    lambda: np.sqrt,
    lambda: np.mean,
    lambda: pa.array([1, 2]),
    lambda: pa.array([1, None]),
    lambda: pa.table({"a": [1]}),
    lambda: pa.int32(),
    lambda: pa.schema({"a": pa.int32()}),
    lambda: pd.DataFrame({"a": [1, 2]}),
    lambda: pd.DataFrame({"a": [1, 3]}),
    lambda: pd.Timestamp("2020"),
]


def test_functions_of_no_module_are_compared_by_their_code():
    one, same, other = ({}, {}, {})
    for number, namespace in ((1, one), (1, same), (2, other)):
        exec(f"def helper(x): return x + {number}\ndef fn(batch): return helper(batch['id'])", namespace)
        assert namespace["fn"].__module__ in (None, "builtins")

    assert changed(one["fn"], same["fn"]) == set()
    assert changed(one["fn"], other["fn"]) != set()


def test_values_are_told_apart_and_made_again_are_the_same():
    first, again = ([parts_of(len, {"v": make()})["v"] for make in VALUES] for _ in range(2))

    assert first == again
    assert len(set(first)) == len(VALUES)


def test_values_that_hold_themselves_end():
    one, other = [1], [2]
    for each in (one, other):
        each.append(each)

    assert parts_of(len, {"v": one})["v"] != parts_of(len, {"v": other})["v"]


def test_digests_show_nothing():
    parts = parts_of(defined(CELLS["default"].replace("K", "'hunter2'")), {"key": "hunter3"})

    assert "hunter" not in str(parts)


ALL = """
import json
from ray_lance.backfill.identity import parts_of
from tests.unit.backfill.test_identity import CELLS, VALUES, defined
cells = [parts_of(defined(text.replace("K", "2")), {}) for text in CELLS.values()]
found = json.dumps([cells, [parts_of(len, {"v": make()}) for make in VALUES]])
"""


ONCE_RAY_RUNS = """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
"""


@pytest.mark.parametrize(
    "before",
    [pytest.param("", id="without Ray", marks=pytest.mark.slow), pytest.param(ONCE_RAY_RUNS, id="once Ray runs")],
)
def test_every_process_finds_the_same_digests(before, monkeypatch):
    """Hashes of strings, and so the order of sets, differ from process to process; so do addresses."""
    here: dict[str, str] = {}
    exec(ALL, here)

    monkeypatch.setenv("PYTHONHASHSEED", "3")
    code = f"{before}{ALL}\nprint(found)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert run.stdout.splitlines()[-1] == here["found"]
    assert len(here["found"]) > 1000
