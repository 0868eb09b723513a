"""Run the notebooks of this folder and keep their outputs: python docs/notebooks/run.py [FOLDER to write to].

Each runs in an empty folder, with the Python that runs this, and without what depends on the moment or the machine.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def tidy(cell):
    """Join what was printed in pieces; leave out times and second copies of pictures."""
    cell.metadata.pop("execution", None)
    kept = []
    for output in cell.get("outputs", []):
        if kept and output.output_type == "stream" and output.get("name") == kept[-1].get("name"):
            kept[-1].text += output.text
        else:
            output.get("data", {}).pop("image/jpeg", None)
            kept.append(output)
    if cell.cell_type == "code":
        cell.outputs = kept


def run(path: Path, out: Path) -> None:
    """Run one notebook and write it with its outputs to the folder ``out``."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}})
        client.execute()
    for cell in notebook.cells:
        tidy(cell)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, out / path.name)


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    for found in sorted(HERE.glob("*.ipynb")):
        run(found, Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
