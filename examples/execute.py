"""Run the notebooks, and save them with what came out: `make notebooks`.

    python examples/execute.py [NAME ...]

A notebook is made from the script of its name beside it, in Jupytext's percent format; edit that.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import jupytext
import nbformat
from files import write
from nbclient import NotebookClient

FOLDER = Path(__file__).with_name("notebooks")
NAMES = ("classifier", "small_batches", "padded_sequences", "export")
SECONDS = 300
"""How long one cell may take, and the start of Python."""


def source(name: str) -> nbformat.NotebookNode:
    """Make a notebook without outputs from its script."""
    notebook = jupytext.read(FOLDER / f"{name}.py")
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{name}-{number}"  # else at random
    return notebook


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run all cells in a new process and an empty folder.

    Raises:
        CellExecutionError: A cell has raised.
    """
    settings = {"OMP_NUM_THREADS": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    with TemporaryDirectory() as folder:
        # Nobody's profile of IPython, and no history of it either.
        environment = {**os.environ, **settings, "IPYTHONDIR": folder, "HOME": folder}
        client = NotebookClient(
            notebook,
            timeout=SECONDS,
            startup_timeout=SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
        )
        client.create_kernel_manager()
        # By files in this folder: a port is open to everybody on the machine.
        client.km.transport, client.km.ip = "ipc", str(Path(folder) / "kernel")
        client.execute(env=environment)
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def saved(name: str) -> Path:
    """Say where a notebook is saved."""
    return FOLDER / f"{name}.ipynb"


if __name__ == "__main__":
    for wanted in sys.argv[1:] or NAMES:
        print(f"{wanted} ...", file=sys.stderr)
        text = nbformat.writes(execute(source(wanted)))
        write(saved(wanted), lambda path, text=text: path.write_text(text + "\n", encoding="utf-8"))
