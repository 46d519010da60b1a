"""Errors that cross Ray: as short at the end as they were at the beginning."""

from __future__ import annotations

import pickle

import pytest
from ray.exceptions import RayTaskError, UserCodeException

from ray_lance.data.faults import faults_of_data, own_error, own_errors
from ray_lance.errors import DatasetNotFoundError, InvalidArgumentError, TensorConversionError, UnknownColumnError
from ray_lance.write.row_commit import MergeConflictError

ERRORS = [
    InvalidArgumentError("batch_size=0 must be at least 1"),
    UnknownColumnError("columns", "lable", ["label"]),
    DatasetNotFoundError("uri: there is no dataset"),
    TensorConversionError("column 'x' holds nulls"),
    MergeConflictError("others changed the rows"),
]


def in_a_task(error: Exception) -> BaseException:
    """What Ray raises on the driver for an error that a task of Ray Data raised."""
    with pytest.raises(type(error)) as caught, faults_of_data():
        raise error
    fault = caught.value
    fault.args = (f"{fault.args[0]}\nFailed to apply UDF transform after 1/1 attempts",)  # as Ray Data does
    task_error = RayTaskError("ReadLance", "Traceback:\n" * 40, pickle.loads(pickle.dumps(fault)), "ray", 1, "::1")
    return task_error.as_instanceof_cause()


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
class TestErrorsOfThisLibrary:
    def test_are_faults_of_the_user_to_ray(self, error):
        assert isinstance(in_a_task(error), UserCodeException)
        assert isinstance(in_a_task(error), type(error))

    def test_arrive_as_they_were_raised(self, error):
        with pytest.raises(type(error)) as caught, own_errors():
            raise in_a_task(error)
        assert type(caught.value) is type(error)
        assert str(caught.value) == str(error)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    def test_are_found_under_what_ray_wraps_around_them(self, error):
        wrapped = RuntimeError("a thread failed")
        wrapped.__cause__ = in_a_task(error)
        assert str(own_error(wrapped)) == str(error)

    def test_can_be_pickled(self, error):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        assert type(pickle.loads(pickle.dumps(error))) is type(error)


def test_other_errors_stay_as_they_are():
    with pytest.raises(ZeroDivisionError), own_errors(), faults_of_data():
        raise ZeroDivisionError
    assert own_error(ZeroDivisionError()) is None
