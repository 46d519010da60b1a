"""An S3 server behind a proxy, in a process of its own: prints its address, then serves until its input ends.

Each line of input is the latency in seconds that requests have from then on; the answer is the number of requests
since the line before.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.proxy import Trouble, troubled_s3


def main() -> None:
    with troubled_s3(keeps_data_files=True) as (s3, proxy):
        print(s3.endpoint, flush=True)
        for line in sys.stdin:
            proxy.set_trouble(Trouble(latency_s=float(line)))
            print(len(proxy.requests), flush=True)
            proxy.requests.clear()


if __name__ == "__main__":
    main()
