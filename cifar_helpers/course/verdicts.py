"""A row of the table of hypotheses with which a notebook ends."""

__all__ = ["verdict"]


def verdict(hypothesis: str, holds: bool, measured: str, *, judged: bool) -> tuple[str, str, str]:
    """Return the hypothesis, "held" or "failed", and what was measured, as a row for `tables.format_table`.

    Args:
        judged: whether data and budget are enough to judge; otherwise the row says "not judged".
    """
    outcome = "held" if holds else "failed"
    return hypothesis, outcome if judged else "not judged", measured
