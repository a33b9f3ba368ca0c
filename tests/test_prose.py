"""Numbers in prose, checked against the outputs above them."""

import pytest

from cifar_helpers.course.prose import unsupported_numbers


def markdown(text):
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def code(printed, tags=(), source="run()"):
    outputs = [{"output_type": "stream", "name": "stdout", "text": [printed]}] if printed else []
    return {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source, "outputs": outputs}


def missing(prose, *cells):
    notebook = {"cells": [markdown("## 1 · Rates"), *cells, markdown(prose)]}
    return [found.number for found in unsupported_numbers(notebook)]


PRINTED = code("accuracy 0.7424, loss 1.0359, 1,234 images, change -0.031, rate 1e-05, steps (10,50)")


@pytest.mark.parametrize(
    "prose",
    [
        "It reaches 74.24 %, or 74.2 %, or 74 %, or .742.",
        "The loss is 1.04, over 1,234 images.",
        "A change of −3.1 points, that is 3.1 fewer.",
        "After 10 and 50 steps at a rate of 1e-5.",
        "Between 74 and 74.2 %. [Others](https://x.org) have 80 %. 74 % is ours.",
        "In notebooks 03, 04 and 05, and on CIFAR-10, it is 74 %.",
        "See notebook 03, sections 4 and 5, and ResNet-18 on CIFAR-100; `lr=0.5`, $3 \\times 3$ and (Jordan, 2024).",
        "People reach 94 % ([Karpathy](https://karpathy.github.io)).",
        "| 74.2 % | 1.036 |",
        "1. It is 74 %.\n2. It costs 1,234 images.",
        "### 9 more\n\n<details><summary>answer</summary>It is 99 %.</details>",
    ],
)
def test_a_number_that_was_printed_may_be_rounded_or_be_a_percentage(prose):
    assert missing(prose, PRINTED) == []


@pytest.mark.parametrize(
    ("prose", "numbers"),
    [
        ("It reaches 74.3 %.", ["74.3"]),
        ("It reaches 75 %, at a loss of 1.03.", ["75", "1.03"]),
        ("Over 1,235 images. People reach 94 % ([Karpathy](https://karpathy.github.io)). Ours 88 %.", ["1235", "88"]),
        ("| 74.2 % | 1.037 |", ["1.037"]),
        ("It is .75 now", [".75"]),
        ("A change of +3.2 points.", ["3.2"]),
        ("It rose by −74 %.", ["-74"]),
        ("It has 74 images, and a loss of 104.", ["74", "104"]),  # no percentages are spoken of
        ("On CIFAR-10, 99 % are right; in notebook 03, 45 %.", ["99", "45"]),
        ("### 9 more\nIt is 99 %.", ["99"]),
        ("[Others](https://x.org) have 80 %. 98 % is ours.", ["98"]),
    ],
)
def test_a_number_that_was_not_printed_is_found(prose, numbers):
    assert missing(prose, PRINTED) == numbers


def test_only_the_same_section_counts_and_only_prose_behind_an_output():
    cells = [markdown("## 1 · Rates"), PRINTED, markdown("## 2 · Widths"), markdown("We expect 50 %."), code("done: 3")]
    found = unsupported_numbers({"cells": [*cells, markdown("It is 74 %, with 3 seeds. ")]})
    assert [str(one) for one in found] == [
        "2 · Widths: '74' is in no output of this section: It is 74 %, with 3 seeds."
    ]


def test_a_heading_inside_a_cell_begins_a_section():
    cells = [markdown("## 1 · Rates"), PRINTED, markdown("It is 74 %.\n\n## 2 · Widths\n\nWider."), code("done: 3")]
    found = unsupported_numbers({"cells": [*cells, markdown("It is 74 %.\n\n## Limits\n\nIt was 80 %.")]})
    assert [(one.section, one.number) for one in found] == [("2 · Widths", "74")]


def test_parameters_are_known_everywhere_and_hypotheses_are_exempt():
    cells = [
        code("", ["parameters"], "RATES, IMAGES = (0.1, 0.3), 10_000"),
        markdown("## Hypotheses"),
        PRINTED,
        markdown("It is 99 %."),
    ]
    assert (
        unsupported_numbers(
            {"cells": [*cells, markdown("## 1 · Rates"), PRINTED, markdown("At .3 it is 74 % of 10,000.")]}
        )
        == []
    )
