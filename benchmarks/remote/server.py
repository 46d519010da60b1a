"""An S3 server with a copy of a dataset, behind a proxy that adds latency; in a process of its own.

Usage: python benchmarks/remote/server.py DATASET

Prints its address, then serves until its input ends. Each line of input is the latency in seconds that requests have
from then on; the answer is the number of requests since the line before, and the seconds of CPU time so far.
"""

from __future__ import annotations

import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.proxy import Proxy, Trouble, troubled_s3
from tests.s3 import BUCKET


def copy(dataset: Path, proxy: Proxy) -> None:
    """Put a dataset into the bucket. Data files, which are only read, stay in the proxy's memory."""
    for file in (path for path in dataset.rglob("*") if path.is_file()):
        path = f"/{BUCKET}/{dataset.name}/{file.relative_to(dataset).as_posix()}"
        if file.parent.name == "data":
            proxy.keep(path, file.read_bytes())
        else:
            headers = {"content-type": "application/octet-stream"}
            put = urllib.request.Request(proxy.endpoint + path, file.read_bytes(), headers, method="PUT")
            urllib.request.urlopen(put).close()


def main() -> None:
    with troubled_s3() as (s3, proxy):
        copy(Path(sys.argv[1]), proxy)
        print(s3.endpoint, flush=True)
        for line in sys.stdin:
            proxy.set_trouble(Trouble(latency_s=float(line)))
            print(len(proxy.requests), time.process_time(), flush=True)
            proxy.requests.clear()


if __name__ == "__main__":
    main()
