"""Small notebooks that several test files execute."""

from pathlib import Path

import nbformat


def write_notebook(path: Path, *sources: str) -> Path:
    """Write a notebook with these code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    nbformat.write(notebook, path)
    return path


# A cell that saves a figure.
DRAW = """
import matplotlib.pyplot as plt
from cifar_helpers.course.workspace import open_workspace
figure, ax = plt.subplots()
ax.set_title("A line")
ax.plot([1, 2])
path = open_workspace("01_good", "quick", "cpu", ["real"]).save_figure(figure, "line", "It rises & rises.")
plt.show()
"""
