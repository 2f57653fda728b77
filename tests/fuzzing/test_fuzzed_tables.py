"""Mutated tables of images: each is read or refused by name."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing.mutations import mutate_bytes
from fuzzing.reading import fuzz

from hf_tl.data.layout.table_files import read_table
from hf_tl.errors import DataError

ROWS = [
    {"file_name": f"images/{number}.jpg", "label": ("cat", "dog, big", "\u2028 owl")[number % 3], "group": number // 2}
    for number in range(12)
]


def write(file: Path) -> None:
    match file.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), file)
        case ".jsonl":
            file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS), encoding="utf-8")
        case suffix:
            separator = "\t" if suffix == ".tsv" else ","
            lines = [
                separator.join(f'"{value}"' for value in values)
                for values in (ROWS[0], *(row.values() for row in ROWS))
            ]
            file.write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_mutated_tables_are_read_or_refused(tmp_path: Path, part: int, suffix: str) -> None:
    file = tmp_path / f"table{suffix}"
    write(file)
    labels = [str(label).strip() for label in read_table(tmp_path, file.name).columns["label"]]
    assert labels == [str(row["label"]).strip() for row in ROWS]

    def read() -> None:
        table = read_table(tmp_path, file.name)
        assert {len(values) for values in table.columns.values()} <= {len(table)}

    fuzz(file, mutate_bytes, read, part)


@pytest.mark.parametrize(
    ("name", "content"),
    [("table.csv", "file,label\n1.jpg," + 200_000 * "x"), ("table.jsonl", 200_000 * "["), ("table.parquet", "PAR1")],
)
def test_a_table_that_its_parser_gives_up_is_named(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"the table {name} cannot be read"):
        read_table(tmp_path, name)
