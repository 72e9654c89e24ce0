"""Tables in their three forms, and bars that only a terminal sees."""

from __future__ import annotations

import pytest

from unmask.show import Bar, Table

TABLE = Table(titles=("set", "fd", "what"), rows=[("a", 1234.56, "x"), ("bcd", 0.12345, "y")])


def test_a_table_as_text_stands_in_columns() -> None:
    lines = str(Table(titles=TABLE.titles, rows=TABLE.rows, notes=["of 2"])).splitlines()
    assert lines == [
        "set      fd  what",
        "---  ------  ----",
        "a     1,235     x",
        "bcd  0.1235     y",
        "",
        "of 2",
    ]


def test_a_table_as_markdown_has_numbers_to_the_right() -> None:
    lines = TABLE.markdown().splitlines()
    assert lines[0] == "| set | fd | what |"
    assert lines[1] == "| --- | ---: | --- |"
    assert Table(titles=["a"], rows=[["1 ± 2"], ["-"]]).markdown().splitlines()[1] == "| ---: |"
    assert Table(titles=["a"], rows=[], notes=["n"]).markdown().endswith("\n\n* n")


def test_a_turned_table_has_columns_for_rows() -> None:
    turned = TABLE.turned()
    assert turned.titles == ["set", "a", "bcd"]
    assert turned.rows == [("fd", 1234.56, 0.12345), ("what", "x", "y")]
    assert turned.turned().rows == [tuple(row) for row in TABLE.rows]


def test_a_drawn_table_reads_no_markup_and_no_line_ends(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Table(titles=["[b]t[/]"], rows=[["one\ntwo"], [("three", "four")]], notes=["[i]n[/]"]).draw()
    told = capsys.readouterr().out
    assert "[b]t[/]" in told
    assert r"one\ntwo" in told
    assert "three" in told
    assert "three four" not in told
    assert told.endswith("[i]n[/]\n")


def test_a_bar_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("working", 3) as bar:
        assert list(bar.over("ab")) == ["a", "b"]
        bar.advance()
        bar.move(2)
        bar.tell("now")
        assert not bar.seen
    assert capsys.readouterr() == ("", "")
