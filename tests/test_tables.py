import numpy as np
import pytest

from cifar_helpers.course import verdict
from cifar_helpers.tables import format_table


def test_texts_stand_left_and_numbers_right():
    rows = [("mlp", 0.5858, 12), ("a longer name", 0.4, 1_000)]
    assert format_table(rows, ("network", "accuracy", "runs")) == (
        "network        accuracy  runs\nmlp               0.586    12\na longer name     0.400  1000"
    )


def test_titles_may_be_left_out_and_rows_may_be_an_iterator():
    assert format_table(iter([("a", "bb"), ("ccc", "d")])) == "a    bb\nccc  d"
    assert format_table([]) == ""
    assert format_table([(np.int64(5), True), (np.float32(0.5), False)]) == "    5  True\n0.500  False"
    assert format_table([], ("a", "b")) == "a  b"


def test_a_text_with_line_breaks_makes_a_row_of_several_lines():
    rows = [("mlp", "not judged\npublished: held", 0.5), ("cnn", "held", 12)]
    assert format_table(rows, ("network", "outcome", "n")) == (
        "network  outcome              n\n"
        "mlp      not judged       0.500\n"
        "         published: held\n"
        "cnn      held                12"
    )


@pytest.mark.parametrize(("rows", "columns"), [([(1, 2), (1,)], ()), ([(1, 2)], ("a",))])
def test_a_row_of_another_length_is_named(rows, columns):
    with pytest.raises(ValueError, match=r"has \d columns; the first one has \d"):
        format_table(rows, columns)


@pytest.mark.parametrize(
    ("holds", "judged", "outcome"), [(True, True, "held"), (False, True, "failed"), (True, False, "not judged")]
)
def test_a_hypothesis_is_held_or_failed_only_where_it_can_be_judged(holds, judged, outcome):
    assert verdict("wider is better", holds, "74.2 %", judged=judged) == ("wider is better", outcome, "74.2 %")
