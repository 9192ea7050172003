import json
import logging
import sys
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experience import jsonl, parquet
from experience.dataset import load_dataset
from experience.errors import DataError
from experience.parquet import write_parquet

ROWS = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"}]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def load(folder, content, name="train.jsonl"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_dataset(str(path))


def test_jsonl_keeps_every_value_as_it_stands(tmp_path):
    # A faster reader would make dates of such texts.
    rows = [{"day": "2020-01-01", "n": 1, "x": 1.5, "chat": [{"role": "user", "content": "é"}], "none": None}]
    data = load(tmp_path, lines(rows))
    assert data.table.to_pylist() == rows
    assert data.where(0).endswith("train.jsonl:1")


BAD_LINES = {
    "bad JSON": ('{"prompt": "b", "answer": 2,}', 29),
    "Expecting value": ('{"prompt": }', 12),
    "NaN is not JSON; use null": ('{"prompt": "b", "x": NaN}', 22),
    "-Infinity is not JSON": ('{"x": -Infinity}', 7),
    "Extra data": ('{"prompt": "b"} {"prompt": "c"}', 17),
}


@pytest.mark.parametrize("complaint", BAD_LINES)
def test_a_bad_line_is_named_with_its_column(tmp_path, complaint):
    line, column = BAD_LINES[complaint]
    with pytest.raises(DataError, match=rf"train.jsonl:2:{column}: .*{complaint}"):
        load(tmp_path, lines(ROWS[:1]) + line + "\n" + lines(ROWS))


def test_a_cut_last_line_is_called_that(tmp_path):
    with pytest.raises(DataError, match=r"train.jsonl:3:\d+: .*was the file cut\?"):
        load(tmp_path, lines(ROWS) + '{"prompt": "c", "ans')


def test_a_last_line_without_an_end_is_a_line(tmp_path):
    assert len(load(tmp_path, lines(ROWS).rstrip("\n"))) == 2


def test_a_line_that_is_no_object_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"train.jsonl:2: holds a list; every line must be an object"):
        load(tmp_path, '{"a": 1}\n[1, 2]\n')


def test_a_byte_order_mark_is_ignored_aloud(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        data = load(tmp_path, b"\xef\xbb\xbf" + lines(ROWS).encode())
    assert data.table.to_pylist() == ROWS
    assert "byte-order mark" in caplog.text


def test_utf_16_is_refused(tmp_path):
    with pytest.raises(DataError, match="is UTF-16; convert it to UTF-8"):
        load(tmp_path, lines(ROWS).encode("utf-16"))


def test_windows_line_ends_change_nothing(tmp_path):
    assert load(tmp_path, lines(ROWS).replace("\n", "\r\n")).table.to_pylist() == ROWS


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", lines(ROWS).encode()])
def test_bytes_that_are_not_utf_8_are_named_by_their_place(tmp_path, before):
    content = before + b'{"prompt": "caf\xe9"}\n'
    with pytest.raises(DataError, match=rf"not UTF-8 at byte {content.index(0xE9)} \(0xe9\)"):
        load(tmp_path, content)


def test_empty_lines_are_fine_only_at_the_end(tmp_path):
    assert len(load(tmp_path, lines(ROWS) + "\n\n")) == 2
    with pytest.raises(DataError, match=r"train.jsonl:2: empty line"):
        load(tmp_path, '{"a": 1}\n\n{"a": 2}\n')


def test_an_endless_line_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 2**20)
    with pytest.raises(DataError, match=r"train.jsonl:2: longer than 1 MiB"):
        load(tmp_path, lines(ROWS[:1]) + '{"prompt": "' + "x" * 2**20)


def test_nesting_without_end_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"train.jsonl:1: nested too deeply"):
        load(tmp_path, "[" * 100_000 + "\n")


def test_a_column_of_two_types_is_refused_by_line(tmp_path):
    with pytest.raises(DataError, match=r"train.jsonl:2: column 'p' is list here and str before"):
        load(tmp_path, '{"p": "a"}\n{"p": ["a"]}\n')
    with pytest.raises(DataError, match=r"train.jsonl:3: column 'p' is another kind of value"):
        load(tmp_path, '{"p": ["a"]}\n{"p": ["b"]}\n{"p": [[1]]}\n')


def test_numbers_beside_texts_become_texts(tmp_path):
    data = load(tmp_path, '{"answer": 72}\n{"answer": "1/2"}\n{"answer": null}\n')
    assert data.table["answer"].to_pylist() == ["72", "1/2", None]


def test_types_are_compared_over_the_whole_of_a_long_file(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "_LINES_PER_CHUNK", 2)
    data = load(tmp_path, lines([{"a": None}, {"a": None}, {"a": "x"}, {"a": "y", "b": 1}, {"a": "z"}]))
    assert data.table["a"].to_pylist() == [None, None, "x", "y", "z"]
    assert data.table["b"].to_pylist() == [None, None, None, 1, None]
    with pytest.raises(DataError, match=r"train.jsonl:4: column 'a' is list here and str before"):
        load(tmp_path, lines([{"a": "x"}, {"a": "y"}, {"a": "x"}, {"a": ["y"]}]))
    with pytest.raises(DataError, match="a column changes its type along the file"):
        load(tmp_path, lines([{"a": "x"}, {"a": "y"}, {"a": ["x"]}, {"a": ["y"]}]))


def parquet_at(folder, name="train.parquet", rows=ROWS, **options):
    path = folder / name
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def test_parquet_rows_are_counted_from_0(tmp_path):
    data = load_dataset(str(parquet_at(tmp_path)))
    assert data.table.to_pylist() == ROWS
    assert data.where(1).endswith("train.parquet, row 1")


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-7], lambda b: b[:4], lambda b: b"", lambda b: b"PK" + b[2:-2] + b"PK"]
)
def test_a_file_that_is_not_whole_parquet_is_refused(tmp_path, damage):
    path = parquet_at(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"train.parquet: not a complete Parquet file"):
        load_dataset(str(path))


def test_a_flipped_bit_is_found_and_its_row_group_named(tmp_path):
    rows = [{"text": f"text number {n}"} for n in range(40)]
    path = parquet_at(tmp_path, rows=rows, row_group_size=20, write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    content[content.index(b"text number 33")] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"train.parquet: row group 1 is damaged"):
        load_dataset(str(path))


def test_a_file_that_unpacks_without_measure_is_refused(tmp_path, monkeypatch):
    path = parquet_at(
        tmp_path, rows=[{"text": "x" * 10**6 + str(n)} for n in range(50)], compression="zstd", use_dictionary=False
    )
    monkeypatch.setattr(parquet, "_MAX_UNPACKED_BYTES", 2**20)
    with pytest.raises(DataError, match=r"would unpack to 0 GiB, 1000 times its size; refused"):
        load_dataset(str(path))


def test_a_write_that_fails_leaves_neither_file_nor_remains(tmp_path):
    path = tmp_path / "folder.parquet"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_parquet(pa.table({"a": [1]}), path)
    assert list(tmp_path.iterdir()) == [path]


def test_shards_of_a_folder_or_a_glob_are_one_table_that_knows_its_files(tmp_path):
    parquet_at(tmp_path, "b.parquet")
    parquet_at(tmp_path, "a.parquet", rows=[{"prompt": "first", "answer": "0"}])
    (tmp_path / "README.md").write_text("not data")
    for source in (tmp_path, tmp_path / "*.parquet"):
        data = load_dataset(str(source))
        assert data.table["prompt"].to_pylist() == ["first", "a", "b"]
        assert [data.where(row).split("/")[-1] for row in range(3)] == [
            "a.parquet, row 0",
            "b.parquet, row 0",
            "b.parquet, row 1",
        ]


def test_shards_of_different_types_name_both_and_the_column(tmp_path):
    parquet_at(tmp_path, "a.parquet")
    parquet_at(tmp_path, "b.parquet", rows=[{"prompt": "c", "answer": 3}])
    with pytest.raises(DataError, match=r"column 'answer' is string in .*a.parquet and int64 in .*b.parquet"):
        load_dataset(str(tmp_path))


@pytest.mark.parametrize(("first", "second"), [("a", "b"), ("b", "a")])
def test_a_column_that_one_shard_lacks_names_both(tmp_path, first, second):
    parquet_at(tmp_path, f"{first}.parquet")
    parquet_at(tmp_path, f"{second}.parquet", rows=[{"prompt": "c"}])
    with pytest.raises(DataError, match=rf"{second}.parquet has no column 'answer', which .*{first}.parquet has"):
        load_dataset(str(tmp_path))


def test_a_shard_with_nothing_in_a_column_fits_every_type(tmp_path):
    parquet_at(tmp_path, "a.parquet", rows=[{"answer": None}])
    parquet_at(tmp_path, "b.parquet", rows=[{"answer": "1"}])
    assert load_dataset(str(tmp_path)).table["answer"].to_pylist() == [None, "1"]


def test_sources_that_hold_nothing_say_where_was_looked(tmp_path):
    with pytest.raises(DataError, match=r"absent.jsonl: no such file or folder \(looked in /"):
        load_dataset(str(tmp_path / "absent.jsonl"))
    with pytest.raises(DataError, match=r"\*.jsonl \(looked in /.*\) holds no file ending in .parquet, .jsonl"):
        load_dataset(str(tmp_path / "*.jsonl"))
    with pytest.raises(DataError, match=r"is a folder that holds no file"):
        load_dataset(str(tmp_path))
    with pytest.raises(DataError, match=r"unknown file type; choose one of .parquet, .jsonl"):
        load(tmp_path, "a,b\n", name="train.csv")


def test_an_empty_data_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no row"):
        load(tmp_path, "")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="holds no row"):
        load_dataset(str(tmp_path / "empty.parquet"))


def hub_that(load_dataset):
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    return module


def test_a_hub_name_is_name_config_and_split(monkeypatch):
    asked = []

    class Loaded(list):
        def with_format(self, kind):
            assert kind == "arrow"
            return pa.Table.from_pylist(self)

    def load_from_hub(name, config, *, split):
        asked.append((name, config, split))
        return Loaded(ROWS)

    monkeypatch.setitem(sys.modules, "datasets", hub_that(load_from_hub))
    for source in ("hub:gsm8k", "hub:openai/gsm8k", "hub:openai/gsm8k/main", "hub:openai/gsm8k/main:test[:5]"):
        assert load_dataset(source).table.to_pylist() == ROWS
    assert asked == [
        ("gsm8k", None, "train"),
        ("openai/gsm8k", None, "train"),
        ("openai/gsm8k", "main", "train"),
        ("openai/gsm8k", "main", "test[:5]"),
    ]


def test_a_hub_out_of_reach_is_one_line(monkeypatch):
    def refuse(name, config, *, split):
        raise ConnectionError("no route\nand much more")

    monkeypatch.setitem(sys.modules, "datasets", hub_that(refuse))
    with pytest.raises(DataError, match=r"hub:a/b: cannot be loaded .*\(is there a network\?\): no route$"):
        load_dataset("hub:a/b")


def test_a_hub_name_without_the_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'wutong\[hub\]'"):
        load_dataset("hub:a/b")
