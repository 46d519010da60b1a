"""An S3 server on this machine."""

from __future__ import annotations

import logging
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import lance
from lance.file import LanceFileSession
from moto.server import ThreadedMotoServer

BUCKET = "bucket"
SECRET = "keep-this-to-yourself"


@dataclass(frozen=True)
class S3:
    """A folder of a bucket, and what Lance needs to reach it.

    Servers of one process share their contents: each has a folder of its own.
    """

    endpoint: str
    folder: str = ""

    @property
    def storage_options(self) -> dict[str, str]:
        return {
            "aws_endpoint": self.endpoint,
            "allow_http": "true",
            "aws_access_key_id": "someone",
            "aws_secret_access_key": SECRET,
            "aws_region": "us-east-1",
        }

    def uri(self, name: str) -> str:
        return f"s3://{BUCKET}/{self.folder}{name}"

    def files(self, name: str) -> list[str]:
        return sorted(LanceFileSession(self.uri(name), storage_options=self.storage_options).list())

    def orphans(self, name: str) -> list[str]:
        """Data and transaction files of the dataset ``name`` that no version of it refers to."""
        referred: set[str] = set()
        for entry in lance.dataset(self.uri(name), storage_options=self.storage_options).versions():
            version = lance.dataset(self.uri(name), version=entry["version"], storage_options=self.storage_options)
            if (transaction := version.read_transaction(entry["version"])) is not None:
                referred.add(f"_transactions/{transaction.read_version}-{transaction.uuid}.txn")
            for fragment in version.get_fragments():
                referred.update(f"data/{file.path}" for file in fragment.metadata.files)
                referred.add(fragment.deletion_file() or "")
        apart = ("_versions/", "_indices/")  # which name no files of rows
        return [path for path in self.files(name) if not path.startswith(apart) and path not in referred]


@contextmanager
def s3_server() -> Iterator[S3]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        s3 = S3(f"http://{host}:{port}", f"{uuid.uuid4().hex}/")
        urllib.request.urlopen(urllib.request.Request(f"{s3.endpoint}/{BUCKET}", method="PUT"))
        yield s3
    finally:
        server.stop()
