from __future__ import annotations

import pickle

import pyarrow as pa
import pytest
from ray.data import SaveMode

from ray_lance.errors import InvalidArgumentError
from ray_lance.write.options import WriteOptions

RAY_MODES = [
    (SaveMode.CREATE, "create"),
    (SaveMode.ERROR, "create"),
    (SaveMode.APPEND, "append"),
    (SaveMode.OVERWRITE, "overwrite"),
    (SaveMode.IGNORE, "ignore"),
]


@pytest.mark.parametrize(("given", "meant"), RAY_MODES)
def test_modes_of_ray_mean_the_same_here(given, meant):
    assert WriteOptions(mode=given).mode == meant


def test_rays_upsert_is_a_merge():
    assert WriteOptions(mode=SaveMode.UPSERT, on="id").mode == "merge"


BAD = [
    ({"mode": "replace"}, r"mode='replace' must be one of"),
    ({"mode": None}, "mode=None must be one of"),
    ({"mode": "merge"}, r"on=\(\): mode=\"merge\" needs the key columns"),
    ({"mode": "merge", "on": ["a", "a"]}, "names a column twice"),
    ({"mode": "merge", "on": [1]}, "must be a name or a list of names"),
    ({"mode": "merge", "on": "a", "update": False, "insert": False}, "would do nothing"),
    ({"on": "a"}, "on=.* applies to mode=\"merge\" only, not to mode='create'"),
    ({"mode": "append", "delete_missing": True}, "delete_missing=True applies"),
    ({"mode": "append", "update": False}, "update=False applies"),
    ({"target_bytes_per_file": 0}, "target_bytes_per_file=0 must be a whole number of at least 1"),
    ({"target_bytes_per_file": -5}, "target_bytes_per_file=-5"),
    ({"target_bytes_per_file": 1.5}, "target_bytes_per_file=1.5"),
    ({"target_bytes_per_file": True}, "target_bytes_per_file=True"),
    ({"max_rows_per_file": 0}, "max_rows_per_file=0"),
    ({"data_storage_version": "9.9"}, "data_storage_version='9.9' must be one of"),
    ({"schema": {"a": 1}}, "schema=dict must be a pyarrow.Schema"),
    ({"schema": []}, "schema=list must be"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=lambda value: str(value)[:40])
def test_a_bad_option_is_refused_by_name(arguments, message):
    with pytest.raises(InvalidArgumentError, match=message):
        WriteOptions(**arguments)


def test_options_travel_to_workers():
    options = WriteOptions(mode="merge", on="id", schema=[pa.field("id", pa.int64())])

    assert pickle.loads(pickle.dumps(options)) == options
    assert options.on == ("id",)
