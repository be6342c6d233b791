"""The notebooks run from top to bottom against a service, and what they find is right."""

import base64
import csv
import json
import math
import struct
import zlib
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.examples.shell import Service

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


@pytest.fixture
def execute(service: Service, tmp_path, monkeypatch):
    """Executes a notebook of ours; nothing of it is written to the user's directories."""
    monkeypatch.setenv("KERNELSVC_URL", service.url)
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))

    def run(name: str) -> list[Any]:
        notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=60,
            resources={"metadata": {"path": str(NOTEBOOKS)}},
        )
        client.execute()
        return [output for cell in notebook.cells for output in cell.get("outputs", [])]

    return run


def printed(outputs: list[Any]) -> str:
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}
    return "".join(output.text for output in outputs if output.output_type == "stream")


def size_of_png(data: str) -> tuple[int, int]:
    """Width and height in pixels; every chunk's checksum must be right, and the last one there."""
    content = base64.b64decode(data)
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    at, kind, header = 8, b"", b""
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", content, at + 8 + length)
        assert checksum == zlib.crc32(kind + body)
        header = header or body
        at += 12 + length
    assert kind == b"IEND"
    width, height = struct.unpack_from(">II", header)
    return width, height


def figures(outputs: list[Any]) -> list[str]:
    return [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]


def tables(outputs: list[Any]) -> list[str]:
    return [o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_are_stored_without_what_they_put_out(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)


def test_quickstart_shows_what_it_says(execute):
    outputs = execute("quickstart.ipynb")
    assert printed(outputs).splitlines() == [
        *("done", " [0, 1, 4, 9, 16] 0"),
        "30 kept",
        "1 ZeroDivisionError kept",
        "124 True kept",
        "30",
        "True",
    ]
    (figure,) = figures(outputs)
    assert min(size_of_png(figure)) > 100
    (table,) = tables(outputs)
    assert table.count("<tr") == 6


def test_analysis_finds_the_masses_that_its_data_hold(execute):
    outputs = execute("analysis.ipynb")

    text = printed(outputs)
    assert text.startswith("35 rows\n3 rows left out\nslope 1.")
    results = json.loads(text[text.index("{") :])
    (figure,) = figures(outputs)
    assert min(size_of_png(figure)) > 300
    assert len(tables(outputs)) == 3

    orbits = usable_orbits()
    assert results["rows"] == len(orbits) == 32
    sun = [(math.log(a), math.log(t)) for centre, a, t in orbits if centre == "Sun"]
    slope = linear_regression(*zip(*sun, strict=True)).slope
    assert results["slope"] == pytest.approx(slope, abs=1e-4)
    assert results["slope"] == pytest.approx(1.5, abs=1e-3)
    assert results["mass_kg"] == {
        centre: pytest.approx(mass, rel=1e-3) for centre, mass in masses(orbits).items()
    }


def test_the_data_set_agrees_with_the_masses_in_the_almanac():
    assert masses(usable_orbits()) == {
        "Sun": pytest.approx(1.988e30, rel=0.005),
        "Jupiter": pytest.approx(1.898e27, rel=0.005),
        "Saturn": pytest.approx(5.683e26, rel=0.005),
        "Neptune": pytest.approx(1.024e26, rel=0.005),
        "Uranus": pytest.approx(8.681e25, rel=0.005),
        # With the Moon's own, which is not small beside it.
        "Earth": pytest.approx(5.972e24 + 7.35e22, rel=0.005),
        "Mars": pytest.approx(6.417e23, rel=0.005),
    }


def usable_orbits() -> set[tuple[str, float, float]]:
    """What goes round what, its distance in m and its period in s; worked out without pandas."""
    metres = {"km": 1e3, "AU": 149_597_870_700.0}
    seconds = {"h": 3600, "d": 86400, "a": 365.25 * 86400}
    with open(NOTEBOOKS / "data" / "orbits.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["distance"] and row["period"]]
    return {
        (
            row["orbits"],
            float(row["distance"]) * metres[row["distance_unit"]],
            abs(float(row["period"])) * seconds[row["period_unit"]],
        )
        for row in rows
    }


def masses(orbits: set[tuple[str, float, float]]) -> dict[str, float]:
    estimates: dict[str, list[float]] = {}
    for centre, distance, period in orbits:
        mass = 4 * math.pi**2 * distance**3 / (6.67430e-11 * period**2)
        estimates.setdefault(centre, []).append(mass)
    return {centre: median(found) for centre, found in estimates.items()}
