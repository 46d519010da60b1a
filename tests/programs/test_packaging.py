"""The wheel: what is in it, and that it works from outside the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Uses the public names as a user's typed code would: each line's type is checked where it is given.
TYPED_USE = """
from __future__ import annotations

import ray_lance
from ray_lance import AddColumnsSummary, Permutation, TensorCollate, WriteSummary, read_lance, write_lance
from ray_lance.torch import LanceIterableDataset, LanceMapDataset, make_loader, to_tensors
from ray_lance.train import DatasetOptions, LanceDataConfig


def double(batch: dict[str, int]) -> dict[str, int]:
    return {"twice": 2 * batch["a"]}


parts: dict[str, Permutation] = Permutation("rows.lance", "a > 1").split({"train": 0.9, "val": 0.1}, seed=0)
train: Permutation = parts["train"].shuffle(seed=7, clump=16, window="auto")[:100]
rows: int = len(train)
name: str = train.fingerprint
dataset = read_lance(train, columns=["a"], num_cpus=1)
written: WriteSummary = write_lance(dataset, "copy.lance", mode="create")
version: int = written.version
added: AddColumnsSummary = ray_lance.add_columns("copy.lance", double, input_columns=["a"])
done: int = added.fragments_done
torch_rows: LanceIterableDataset = LanceIterableDataset(train, batch_size=8, shuffle=7, tail="pad")
steps: int = len(torch_rows)
state: dict[str, object] = torch_rows.state_dict()
torch_rows.load_state_dict(state)
loader = make_loader(LanceMapDataset("rows.lance"), batch_size=4)
config = LanceDataConfig(global_batch_size=64, datasets={"val": DatasetOptions(tail="uneven")})
collate = TensorCollate(fill={"a": 0})
text: str = ray_lance.explain(train)
convert = to_tensors
try:
    write_lance(dataset, "copy.lance")
except ray_lance.DatasetExistsError as error:
    message: str = str(error)
"""

MISTAKES = """
from ray_lance import Permutation, read_lance, write_lance

length: str = len(Permutation("rows.lance"))
Permutation("rows.lance").shuffle(seed="seven")
read_lance("rows.lance", colums=["a"])
write_lance(read_lance("rows.lance"), "copy.lance").version.upper()
"""


def run(command: list[str], **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    built = run([*command, "--wheel-dir", str(folder), str(ROOT)])
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory) -> Path:
    """An interpreter of a new environment that has the wheel, and this environment's packages without the project."""
    folder = tmp_path_factory.mktemp("environment")
    made = run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    assert made.returncode == 0, made.stderr
    interpreter = folder / "bin" / "python"
    site = Path(run([str(interpreter), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip())
    installed = run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--target",
            str(site),
            str(wheel),
        ]
    )
    assert installed.returncode == 0, installed.stderr
    # A line in a .pth file adds a folder behind the others, and .pth files in that folder (the editable install of
    # the project is one) are not looked at.
    (site / "outside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return interpreter


@pytest.fixture
def clean() -> dict[str, str]:
    """The environment without what would let Python find the repository."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())

    package = {name for name in names if not re.match(r"ray_lance-[\d.]+\.dist-info/", name)}
    tracked = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "ray_lance").rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    assert package == tracked
    assert "ray_lance/py.typed" in package
    assert {name.split("/", 1)[1] for name in names - package} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "licenses/LICENSE",
    }


@pytest.mark.slow
def test_the_readmes_first_example_runs_from_the_wheel(python, clean, tmp_path):
    example = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert example is not None
    script = tmp_path / "example.py"
    script.write_text(
        f"{example.group(1)}\nprint('at', ray_lance.__file__)\n"
        "import importlib.metadata\nprint('is', importlib.metadata.version('ray_lance'), ray_lance.__version__)\n"
    )

    done = run([str(python), str(script)], cwd=tmp_path, env=clean)

    assert done.returncode == 0, done.stderr
    assert "10000 rows in version 1" in done.stdout
    assert f"at {python.parents[1]}" in done.stdout
    assert "is 0.1.0 0.1.0" in done.stdout


@pytest.mark.slow
def test_the_command_runs_from_the_wheel(python, clean, tmp_path):
    done = run([str(python), "-m", "ray_lance", "explain", "nowhere.lance"], cwd=tmp_path, env=clean)

    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no Lance dataset" in done.stderr


@pytest.fixture(scope="module")
def mypy_cache(tmp_path_factory) -> Path:
    """What mypy has found of torch and Ray, which takes it most of the time."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@pytest.mark.parametrize("code", [TYPED_USE, MISTAKES], ids=["right", "wrong"])
def test_types_are_checked_from_outside(code, python, clean, mypy_cache, tmp_path):
    (tmp_path / "use.py").write_text(code)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\ndisallow_subclassing_any = true\n")
    checker = [sys.executable, "-m", "mypy", "--python-executable", str(python), "--cache-dir", str(mypy_cache)]

    done = run([*checker, "use.py"], cwd=tmp_path, env=clean)

    if code is TYPED_USE:
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        wrong = sorted({int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line})
        assert wrong == [4, 5, 6, 7], done.stdout + done.stderr
