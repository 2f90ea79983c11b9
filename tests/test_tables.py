import gzip

import numpy as np
import pandas as pd
import pytest

from titan_neuro.errors import ImageError, InputNotFoundError, MetadataError
from titan_neuro.tables import numbers, read_text_table, read_tsv, read_written_tsv, write_tsv


@pytest.fixture
def read(tmp_path):
    def read_(content, name="x.tsv", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_tsv(path, **options)

    return read_


@pytest.mark.parametrize(
    "cell", ['"', '"open', 'closed"', '""', "'", "\\", "#", ",", " ", "\x0b", "\u2028", "NA", "Größe 数"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_character_but_tab_and_end_of_line_is_text(read, cell, end):
    rows = [["a", "b"], [cell, "1"], ["2", cell], [cell, cell]]
    table = read(end.join("\t".join(row) for row in rows) + end)
    assert table.columns.tolist() == ["a", "b"]
    assert table.to_numpy().tolist() == rows[1:]
    assert table.index.tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    "content",
    ["a\tb\n1\t2", "a\tb\n1\t2\n", "a\tb\n1\t2\n\n\n", "\ufeffa\tb\n1\t2\n", "a\tb\n1\t2\t\n", "a\tb\t\n1\t2\t\n"],
)
def test_ends_and_beginnings_of_files(read, content):
    assert read(content).to_dict("list") == {"a": ["1"], "b": ["2"]}


@pytest.mark.parametrize("rows", ["", "\n"])
def test_a_header_alone_is_an_empty_table(read, rows):
    table = read("a\tb" + rows)
    assert (table.columns.tolist(), len(table)) == (["a", "b"], 0)
    assert numbers("x", table["a"]).shape == (0,)


def test_compressed_tables(read):
    assert read(gzip.compress(b"a\n1\n"), "x.tsv.gz")["a"].tolist() == ["1"]
    for content in (b"a\n1\n", gzip.compress(b"a\n1\n")[:-3], gzip.compress(b"a\n" * 99)[:20] + bytes(9)):
        with pytest.raises(MetadataError, match="is not a readable table"):
            read(content, "x.tsv.gz")


@pytest.mark.parametrize(
    "content",
    ["\ta\n0\tx\n1\ty\n", "Unnamed: 0\ta\n0\tx\n1\ty\n", "a\n0\tx\n1\ty\n", "a\t\nx\t0\ny\t1\n"],
)
def test_columns_without_name_are_left_out(read, content, caplog):
    assert read(content).to_dict("list") == {"a": ["x", "y"]}
    assert "has no name; it is left out" in caplog.text


def test_blank_lines_are_skipped_on_request(read):
    content = "a\tb\n\n1\t2\n\n\n3\t4\n"
    assert read(content, blank_lines=True).index.tolist() == [3, 6]
    with pytest.raises(MetadataError, match="line 2: expected 2 cells, found 1"):
        read(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "found an empty file"),
        ("\n\n", "found an empty file"),
        ("a\tb\n1\n", "line 2: expected 2 cells, found 1"),
        ("a\tb\n1\t2\n1\t2\t3\n", "line 3: expected 2 cells, found 3"),
        ("a\ta\n1\t2\n", "expected each column once, found 2 of the name 'a'"),
        (b"a\n\xff\n", "is not a readable table: .*utf-8"),
        ("a\n1\n".encode("utf-16"), "is not a readable table: .*utf-8"),
        ("a\tb\n1\t2\n", "expected the columns a, onset, found a, b"),
    ],
)
@pytest.mark.parametrize("error", [MetadataError, ImageError])
def test_what_is_no_table_is_refused(read, content, message, error):
    with pytest.raises(error, match=f"x.tsv: .*{message}|x.tsv: {message}"):
        read(content, required=("a", "onset"), error=error)


def test_quoted_names_are_explained(read):
    with pytest.raises(MetadataError, match='found "onset", "duration"') as caught:
        read('"onset"\t"duration"\n1\t2\n', required=("onset", "duration"))
    assert "without quotation marks" in caught.value.hint


def test_what_is_no_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing.tsv"):
        with pytest.raises(InputNotFoundError, match="can't be read"):
            read_tsv(path)


def test_numbers_and_missing_values(read):
    table = read("a\n1\n-2.5e-3\nn/a\n\nNA\nnan\n 7 \n0.1\n".replace("\n\n", "\nN/A\n"))
    expected = [1, -2.5e-3, np.nan, np.nan, np.nan, np.nan, 7, 0.1]
    np.testing.assert_array_equal(numbers("x", table["a"]), expected)


@pytest.mark.parametrize("cell", ["one", "1_000", "1,5", "0x10", '"1"', "--"])
def test_text_among_numbers_is_located(read, cell):
    table = read(f"a\tb\n1\t2\n3\t{cell}\n")
    with pytest.raises(MetadataError, match=r"x\.tsv: line 3, column 'b': expected a number or n/a, found"):
        numbers("x.tsv", table["b"])


def test_written_tables_are_read_back(tmp_path):
    table = pd.DataFrame({'"left" hand': ['"a', 'b"', "c d"], "value": [1.5, np.nan, -2.0], "count": [1, 2, 3]})
    write_tsv(tmp_path / "x.tsv", table)
    assert (tmp_path / "x.tsv").read_text() == '"left" hand\tvalue\tcount\n"a\t1.5\t1\nb"\tn/a\t2\nc d\t-2.0\t3\n'
    pd.testing.assert_frame_equal(read_written_tsv(tmp_path / "x.tsv"), table)
    text = read_tsv(tmp_path / "x.tsv")
    assert text['"left" hand'].tolist() == ['"a', 'b"', "c d"]


TEXT = [
    "=1+1",
    "+a",
    "-x",
    "@x",
    "'=x",
    "''-y",
    "'s",
    "''",
    "-0.5",
    "+1",
    "-1e-3",
    "-inf",
    "--",
    "007",
    "1_0",
    "NA",
    "\uff1dx",
]


def test_formulas_are_guarded_and_read_back(tmp_path):
    path = tmp_path / "x.tsv"
    table = pd.DataFrame({"=name": TEXT, "-value": np.linspace(-0.5, 1, len(TEXT)), "is": [True, *[False] * 16]})
    write_tsv(path, table)
    names, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    assert names == ["'=name", "'-value", "is"]
    # A spreadsheet computes what begins so, and reads numbers as numbers.
    for text, value, _ in rows:
        assert text[0] not in "=+-@\uff1d" or text in {"-0.5", "+1", "-1e-3"}
        float(value)
    pd.testing.assert_frame_equal(read_written_tsv(path), table)
    assert list(read_tsv(path)["=name"]) == list(read_text_table(path)["=name"]) == TEXT


@pytest.mark.parametrize("cells", [["1", "2"], ["0.5", "-2e-05"], ["n/a", "nan"]])
def test_columns_of_numbers_become_numbers(tmp_path, cells):
    write_tsv(tmp_path / "x.tsv", pd.DataFrame({"a": cells, "b": ["x", "n/a"]}))
    table = read_written_tsv(tmp_path / "x.tsv")
    assert pd.api.types.is_numeric_dtype(table["a"])
    assert table["b"].tolist()[0] == "x" and pd.isna(table["b"][1])
