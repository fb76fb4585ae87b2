"""Catches a row of a table that is read under another's number, a label out of range, and a path that is followed."""

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from pipeline.data.rows import BadRow
from pipeline.run.errors import UserError
from recipes.common.images import tables
from recipes.common.images.readers import open_source
from recipes.common.rows import NO_LABEL


def labels(source):
    return {row.key: row.label for row in source.rows}


@pytest.fixture
def write_table(tmp_path, picture, encode):
    """`write_table(labels, shape, name)`: a parquet file with picture i in row i, groups of three rows."""

    def write(given, kind=None, name="table.parquet", shape=lambda content: content, names=None):
        cells = [shape(encode(picture(number))) for number in range(len(given))]
        table = pyarrow.table({"image": cells, "label": pyarrow.array(given, kind)})
        if names is not None:
            told = f'{{"info": {{"features": {{"label": {{"names": {names}, "_type": "ClassLabel"}}}}}}}}'
            table = table.replace_schema_metadata({"huggingface": told.replace("'", '"')})
        path = tmp_path / "tables" / name
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(table, path, row_group_size=3)
        return path

    return write


@pytest.fixture
def from_table(settings):
    return lambda path, **given: open_source(settings(source="parquet", path=path, **given))


@pytest.mark.parametrize(
    "shape",
    [lambda content: content, lambda content: {"bytes": content, "path": "x.png"}],
    ids=["bytes", "struct"],
)
def test_any_rows_of_a_table_are_read_under_their_own_numbers(
    write_table, from_table, picture, encode, shape, monkeypatch
):
    monkeypatch.setattr(tables, "BATCH", 2)  # cuts groups of three
    source = from_table(write_table([0, 1] * 10, shape=shape))
    for numbers in (range(20), [0], [19], [2, 3, 4, 17], [5, 11]):
        wanted = [source.rows[number] for number in numbers]
        assert list(source.read(wanted)) == [encode(picture(number)) for number in numbers]
    assert labels(source) == {f"table.parquet:{number}": number % 2 for number in range(20)}
    assert source.classes == ("0", "1")


def test_a_folder_of_tables_is_one_source(write_table, from_table, picture, encode):
    path = write_table(["x"] * 4, name="0.parquet").parent
    write_table(["y", "x", "z"], name="1.parquet")
    source = from_table(path)
    assert source.classes == ("x", "y", "z")
    assert [row.key for row in source.rows] == [
        *(f"0.parquet:{n}" for n in range(4)),
        *(f"1.parquet:{n}" for n in range(3)),
    ]
    assert [row.label for row in source.rows] == [0, 0, 0, 0, 1, 0, 2]
    wanted = [source.rows[3], source.rows[5]]
    assert list(source.read(wanted)) == [encode(picture(3)), encode(picture(1))]


def test_named_classes_keep_their_numbers_and_what_is_out_of_range_is_wrong(write_table, from_table):
    source = from_table(write_table([2, 0, 3, -1, None, 2], names=["cat", "dog", "owl"]))
    assert source.classes == ("cat", "dog", "owl")
    assert [row.label for row in source.rows if not row.wrong] == [2, 0, 2]
    assert [row.wrong.split("\n") for row in source.rows if row.wrong] == [
        ["label 3 in column 'label'", "expected: 0 to 2"],
        ["label -1 in column 'label'", "expected: 0 to 2"],
        ["no label in column 'label'", "expected: 0 to 2"],
    ]


def test_classes_without_names_are_the_values_in_use(write_table, from_table):
    source = from_table(write_table([7, 3, -1, 12, None, 3]))
    assert source.classes == ("3", "7", "12")
    assert [row.label for row in source.rows] == [1, 0, NO_LABEL, 2, NO_LABEL, 0]
    assert [bool(row.wrong) for row in source.rows] == [False, False, True, False, True, False]
    texts = from_table(write_table(["b", "", None, "a"]))
    assert texts.classes == ("a", "b")
    assert [bool(row.wrong) for row in texts.rows] == [False, True, True, False]


@pytest.mark.parametrize("kind, given", [("double", [0.5, 1.0]), ("bool", [True, False])])
def test_a_column_that_holds_no_classes_is_refused(write_table, from_table, kind, given):
    path = write_table(given, kind)
    with pytest.raises(
        UserError, match=f"{path}: column 'label' holds {kind}\nexpected: classes as integers or text"
    ):
        from_table(path)
    assert from_table(path, label_column=None).classes == ()


def test_a_missing_column_is_named_with_the_nearest(write_table, from_table):
    path = write_table([0, 1])
    with pytest.raises(
        UserError, match="no column 'imag'\ndid you mean 'image'.*\nway out: data.image_column=NAME$"
    ):
        from_table(path, image_column="imag")
    with pytest.raises(UserError, match="no column 'labels'\ndid you mean 'label'.*\nway out: .*or null for"):
        from_table(path, label_column="labels")


def test_what_is_no_table_or_has_no_row_is_refused(tmp_path, write_table, from_table):
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(UserError, match="text.parquet is not a parquet file"):
        from_table(tmp_path / "text.parquet")
    with pytest.raises(UserError, match="no row in"):
        from_table(write_table([], "int64"))
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"no \*.parquet in"):
        from_table(tmp_path / "none")


@pytest.mark.parametrize(
    "cell", [None, {"bytes": None, "path": "/etc/hostname"}], ids=["null", "a path alone"]
)
def test_a_cell_without_a_picture_is_bad_and_no_path_of_the_tables_is_followed(write_table, from_table, cell):
    source = from_table(write_table([0], shape=lambda _: cell))
    (content,) = source.read(source.rows)
    assert isinstance(content, BadRow)


@pytest.fixture
def saved_dataset(tmp_path, picture, encode):
    names = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    cells = [{"bytes": encode(picture(number)), "path": None} for number in range(6)]
    whole = datasets.Dataset.from_dict({"image": cells, "label": [0, 1] * 3}, features=names)
    datasets.DatasetDict({"train": whole, "test": whole.select([5])}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_dataset_is_read_without_decoding_its_pictures(saved_dataset, settings, picture, encode):
    source = open_source(settings(source="datasets", path=saved_dataset))
    assert source.classes == ("cat", "dog")
    assert labels(source) == {f"train:{number}": number % 2 for number in range(6)}
    assert list(source.read(source.rows[2:5])) == [encode(picture(number)) for number in (2, 3, 4)]
    test = open_source(settings(source="datasets", path=saved_dataset, split="test"))
    assert labels(test) == {"test:0": 1}


def test_a_dataset_of_files_is_read_through_their_paths(folder, settings):
    source = open_source(settings(source="datasets", path=folder))
    assert source.classes == ("a", "b") and len(source.rows) == 100
    assert list(source.read([source.rows[0]])) == [(folder / "a" / "000.png").read_bytes()]


def test_a_dataset_that_cannot_be_one_is_refused(saved_dataset, settings):
    with pytest.raises(UserError, match="has no split 'trai'\ndid you mean 'train'"):
        open_source(settings(source="datasets", path=saved_dataset, split="trai"))
    with pytest.raises(UserError, match="neither a folder nor a name on the Hub"):
        open_source(settings(source="datasets", path="a/b/c"))
