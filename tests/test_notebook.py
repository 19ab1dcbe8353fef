"""A notebook that evaluates methods: what its reader sees below the cell."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[1]
EVALUATE = """
import unlearn_jax as uj

data = uj.load("digits", train_size=60)
model = uj.build("mlp", classes=10, width=4)
board = uj.evaluate(model, data, forget=data.published.train[:6], methods=["original", "retrain"], members=2,
                    splits=2, retain_size=20, recipe=uj.Recipe(epochs=1), cache="cache", out="out")
"""
BROKEN = """
from unlearn_jax.progress import working

with working("half") as update:
    update(0.5, "done")
    raise ValueError("stopped")
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The outputs of each cell."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in (EVALUATE, "print(board)", BROKEN)])
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "XDG_CACHE_HOME"):
            patch.setenv(name, str(folder))
        patch.setenv("PYTHONPATH", str(ROOT))
        with pytest.raises(CellExecutionError, match="stopped"):
            client.execute()
    return [cell.outputs for cell in notebook.cells]


def bars(outputs):
    """The text of every bar."""
    shown = [output.data["text/plain"] for output in outputs if output.output_type == "display_data"]
    return [text for text in shown if "left" in text]


def test_each_piece_of_work_has_one_bar_below_the_cell_that_ends_full(cells):
    shown = [re.sub(r"\x1b\[[\d;]*m", "", text) for text in bars(cells[0])]
    for label in ("original models", "oracle models", "retrain models", "scores"):
        (bar,) = [text for text in shown if text.startswith(label)]
        assert "━" in bar and "0:00:00" in bar.rpartition("left")[2]
    assert any("2 members" in text for text in shown)
    assert not [output for output in cells[0] if output.output_type == "stream" and output.name == "stderr"]


def test_the_board_is_printed_as_anywhere(cells):
    (text,) = [output.text for output in cells[1]]
    assert "retrain" in text and len(text.splitlines()) < 12


def test_a_bar_stays_where_the_work_stopped(cells):
    (bar,) = bars(cells[2])
    assert "half" in bar and "done" in bar and [output.ename for output in cells[2][1:]] == ["ValueError"]
