"""Execute one notebook in the kernel of this Python, as Colab does: `python run_alone.py FOLDER/01_….ipynb`.

Nothing of ours is imported: where this Python has no cifar_helpers, the set-up cell must bring it.
"""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

path = Path(sys.argv[1]).resolve()
notebook = nbformat.read(path, as_version=4)
start = time.perf_counter()
try:
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
finally:
    nbformat.write(notebook, path)
print(f"{path.stem}: {time.perf_counter() - start:.0f} s")
