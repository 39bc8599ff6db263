"""The interactive pictures, in a real kernel: moved, each draws another one; stored is one position of it."""

import ast
import json
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "nbs"
DRAWN = '[output["data"]["text/plain"] for output in {}.out.outputs]'


def program(chapter: str, needed: tuple[str, ...]) -> list[str]:
    """The code cells of a chapter that define what its interactive pictures need; all of them where none is named."""
    notebook = json.loads((NOTEBOOKS / f"{chapter}.ipynb").read_text(encoding="utf-8"))
    assert "widgets" not in notebook["metadata"]
    sources = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [text for text in sources if not needed or any(name in text for name in needed)]


def shown(chapter: str, cells: list[str]) -> list[Any]:
    """The values of the last cells, run in a kernel; Output widgets take what is displayed in them, as in Jupyter."""
    notebook: Any = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    where = {"metadata": {"path": str((NOTEBOOKS / chapter).parent)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()
    values = [output["data"]["text/plain"] for cell in notebook.cells for output in cell.outputs if "data" in output]
    return [ast.literal_eval(value) for value in values if value.startswith("['<picture")]


@pytest.mark.parametrize(
    ("chapter", "needed", "box", "inner", "move"),
    [
        ("04_blocks", (), "box = explore()", "box", "box.children[1].value = 2048"),
        (
            "19_throughput",
            ("from coreota.viz import", "class Recorder", "def fates", "def explore"),
            "box = explore()",
            "box",
            "box.children[0].value = 0.0",
        ),
        ("11a_flashmap", (), "box = stepper()", "box.children[1]", "box.children[0].children[1].click()"),
        ("11a_flashmap", (), "box = cutter()", "box", "box.children[0].value = 20"),
    ],
    ids=["bitmap", "dots", "stepper", "cutter"],
)
def test_moved_it_draws_another_picture(chapter: str, needed: tuple[str, ...], box: str, inner: str, move: str) -> None:
    look = DRAWN.format(inner)
    cells = [*(text.split("\nlossy =")[0] for text in program(chapter, needed)), f"{box}\nbox", look, move, look]
    before, after = shown(chapter, cells)
    assert len(before) == len(after) == 1
    assert before != after
