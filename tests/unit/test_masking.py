"""Secrets show nowhere: in no uri, no message, no log line and no chain of errors."""

from __future__ import annotations

import logging
import pickle
import traceback

import lance
import pytest

from ray_lance import Permutation, RayLanceError, TableRef
from ray_lance.errors import InvalidArgumentError, StorageError, UnknownColumnError
from ray_lance.masking import cause, mask, mask_uri, remember, without_secrets
from ray_lance.retry import RetryPolicy
from ray_lance.write.job import begin
from ray_lance.write.options import WriteOptions
from tests.datasets import sample_table
from tests.writes import Cue, FaultySend, write_tables

SECRET = "hunter2-and-more"
# No store answers there, and none is waited for.
NOBODY = {
    "aws_endpoint": f"http://user:{SECRET}@127.0.0.1:9/",
    "allow_http": "true",
    "region": "nowhere-1",
    "aws_access_key_id": "AKIA-of-nobody",
    "aws_secret_access_key": SECRET,
    "client_max_retries": "0",
    "timeout": "2s",
}


@pytest.mark.parametrize(
    ("uri", "masked"),
    [
        ("/plain/path.lance", "/plain/path.lance"),
        ("/odd@path?.lance", "/odd@path?.lance"),
        ("s3://bucket/a.lance", "s3://bucket/a.lance"),
        ("s3://bucket/v@1/a#b.lance", "s3://bucket/v@1/a#b.lance"),
        ("s3://key:secret@bucket/a.lance", "s3://***@bucket/a.lance"),
        ("s3://key:se@cr@et@bucket/a.lance", "s3://***@bucket/a.lance"),
        ("s3://key:se/cr/et@bucket/a.lance", "s3://***@bucket/a.lance"),
        ("s3://key:se#cr#et@bucket/a.lance", "s3://***@bucket/a.lance"),
        ("s3://key:se?cr/e@t@bucket/a.lance?x=secret", "s3://***@bucket/a.lance?***"),
        ("s3://:secret@bucket/a.lance", "s3://***@bucket/a.lance"),
        ("s3://token@bucket/v@1/a.lance", "s3://***@bucket/v@1/a.lance"),
        ("az://c/a.lance?sig=secret", "az://c/a.lance?***"),
        ("http://host:9000/a.lance", "http://host:9000/a.lance"),
    ],
)
def test_uris_are_shown_without_what_may_be_secret(uri, masked):
    assert mask_uri(uri) == masked
    assert mask(f"error performing GET {uri} in 3 ms") == f"error performing GET {masked} in 3 ms"


def test_what_a_process_was_given_is_blotted_out_of_texts():
    remember(
        "s3://me:per%2Fcent@bucket/x?token=opaque", {"key": "k" * 20, "region": "here-1", "flag": "true", "n": "1"}
    )
    remember(None, {"stores": {"az://c": {"account_key": "nested-secret"}}, "short": "test"})

    text = f"per/cent and per%2Fcent, opaque, {'k' * 20}, nested-secret, here-1, true, 1, test of the latest"
    assert mask(text) == "*** and ***, ***, ***, ***, here-1, true, 1, *** of the latest"


def test_an_error_keeps_its_type_and_loses_its_secrets():
    remember(None, {"key": SECRET})
    shown = without_secrets(OSError(f"LanceError(IO): {SECRET} is wrong"))

    assert (type(shown), str(shown)) == (OSError, "LanceError(IO): *** is wrong")
    unknown = without_secrets(UnknownColumnError("columns", SECRET, ["a"]))
    assert (type(unknown), str(unknown)[:36]) == (UnknownColumnError, "columns: there is no column '***'. T")
    assert without_secrets(plain := ValueError("wrong")) is plain
    assert cause(OSError(f"{SECRET} is wrong, /home/x/lance.rs:12:3")) == "*** is wrong"


def shown_of(error: BaseException) -> str:
    """All that a traceback prints, here and where an error was sent to."""
    sent = pickle.loads(pickle.dumps(error))
    return "".join([*traceback.format_exception(error), str(sent), repr(sent)])


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"allow_http": SECRET},
        {"aws_session_token": f"{SECRET}\n"},  # over which Lance panics
    ],
)
@pytest.mark.parametrize(
    "act",
    [
        lambda ref: ref.pin(),
        lambda ref: Permutation(ref),
        lambda ref: begin(ref, WriteOptions(mode="overwrite")),
    ],
)
def test_errors_of_lance_are_ours_and_show_no_secret(act, given):
    ref = TableRef.of(f"s3://user:{SECRET}@bucket/a.lance?token={SECRET}", storage_options={**NOBODY, **given})

    with pytest.raises(RayLanceError, match=r"s3://\*\*\*@bucket/a.lance\?\*\*\*") as caught:
        act(ref)
    assert SECRET not in shown_of(caught.value)
    assert SECRET not in repr(ref)


def test_a_fault_of_storage_names_the_place_and_what_it_said():
    with pytest.raises(StorageError, match=r"uri='s3://bucket/a.lance': LanceError\(IO\).*http://\*\*\*@127.0.0.1:9/"):
        TableRef.of("s3://bucket/a.lance", storage_options=NOBODY).open()


@pytest.mark.parametrize("password", ["hunt/er2", "hunt#er2", "hunt?er2"])
@pytest.mark.parametrize("act", [TableRef.of, lambda uri: Permutation("rows.lance").save(uri)])
def test_a_password_that_makes_a_uri_a_local_path_is_refused(password, act, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lance.write_dataset(sample_table(1), "rows.lance")

    with pytest.raises(InvalidArgumentError, match=r"uri='s3://\*\*\*@bucket/a'.* write / as %2F") as caught:
        act(f"s3://me:{password}@bucket/a")
    assert "er2" not in shown_of(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.lance"]


def test_a_retry_shows_no_secret(caplog):
    remember(None, {"key": SECRET})

    def fail() -> None:
        raise OSError(f"LanceError(IO): timed out with {SECRET}")

    with caplog.at_level(logging.WARNING), pytest.raises(OSError, match=r"timed out with \*\*\*") as caught:
        RetryPolicy(max_attempts=2, base_delay_s=0.0).call(fail, "reading")
    assert "timed out" in caplog.text
    assert SECRET not in caplog.text
    assert SECRET not in shown_of(caught.value)


def test_a_commit_that_fails_shows_no_secret(uri):
    class Refused(FaultySend):
        def __call__(self, *arguments: object, **options: object) -> lance.LanceDataset:
            raise OSError(f"denied for {options['storage_options']}")

    ref = TableRef.of(uri, storage_options={"aws_secret_access_key": SECRET})
    with pytest.raises(RayLanceError, match="denied for") as caught:
        write_tables(ref, [sample_table(1)], send=Refused(before=Cue(frozenset())))
    assert SECRET not in shown_of(caught.value)


def test_another_process_knows_the_secrets_that_it_was_sent():
    sent = pickle.dumps(TableRef.of("s3://bucket/a", storage_options={"key": "of-the-parent"}))
    from ray_lance import masking

    masking._secrets.clear()  # as a new process would be
    pickle.loads(sent)

    assert mask("of-the-parent") == "***"
