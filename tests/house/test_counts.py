"""The counts of the house count what they say."""

from __future__ import annotations

from tests.house.counts import comment_lines, sentences


def test_comments_for_tools_and_marks_in_texts_are_not_counted() -> None:
    assert comment_lines('x = 1  # why\ny = "# no"\nz = 2  # noqa: S101\n# and this\n') == 2


def test_code_is_one_word_and_rows_and_items_are_apart() -> None:
    page = "# Head\n\nOne `a b c` here. Two\ngo on.\n\n- an item\n- [another](x.md)\n"
    page += "\n| a cell | b. C |\n\n```sh\nno code\n```\n"
    expected = ["Head", "One Code here.", "Two\ngo on.", "an item", "another", "a cell", "b.", "C"]
    assert [one for one in sentences(page) if one] == expected
