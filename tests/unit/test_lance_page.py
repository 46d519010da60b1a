"""The page that says which features of Lance are supported: each of its cells is a case."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ray_lance.errors import RayLanceError
from tests.oracle.features import FEATURES, WAYS

PAGE = Path(__file__).parents[2] / "docs" / "lance.md"


def claims() -> list[tuple[str, str, str]]:
    """Feature, way and what the page says of it, from all the tables whose columns are ways."""
    found: list[tuple[str, str, str]] = []
    ways: list[str] = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            ways = []
        elif set(cells[1:]) <= set(WAYS):
            ways = cells[1:]
        elif ways and not set("".join(cells)) <= set("-:"):
            found += [(cells[0], way, cell) for way, cell in zip(ways, cells[1:], strict=True)]
    return found


@pytest.mark.parametrize(("feature", "way", "claim"), claims(), ids=lambda value: re.sub(r"\W+", "_", value))
def test_a_cell_of_the_page_is_true(feature, way, claim, tmp_path):
    table = FEATURES[feature](str(tmp_path / "table"))

    if claim == "yes":
        WAYS[way](table)
    else:
        assert claim == "refused"
        with pytest.raises(RayLanceError):
            WAYS[way](table)


def test_the_page_speaks_of_every_feature_and_way():
    assert {(feature, way) for feature, way, _ in claims()} == {(feature, way) for feature in FEATURES for way in WAYS}
