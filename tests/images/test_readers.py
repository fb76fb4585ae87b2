"""Catches a picture read under another's class or key, a row that goes unseen, and a label that cannot be one."""

import numpy as np
import pytest

from pipeline.data.rows import BadRow
from pipeline.run.errors import UserError
from recipes.common.images import fashion_mnist, openclipart
from recipes.common.images.digits import load
from recipes.common.images.readers import open_source
from recipes.common.rows import NO_LABEL


def contents(source, wanted=None):
    rows = source.rows if wanted is None else wanted
    return dict(zip([row.key for row in rows], source.read(rows), strict=True))


def labels(source):
    return {row.key: row.label for row in source.rows}


# Folders


def test_sub_folders_are_classes_and_files_are_read_under_their_own_keys(folder, settings):
    (folder / "b" / "deep").mkdir()
    (folder / "b" / "060.png").rename(folder / "b" / "deep" / "060.PNG")
    (folder / "a" / "notes.txt").write_text("")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "thumbnail.png").write_bytes(b"")
    source = open_source(settings(path=folder))
    assert source.classes == ("a", "b") and source.other_files == 1
    assert labels(source) == {
        **{f"a/{number:03}.png": 0 for number in range(60)},
        "b/deep/060.PNG": 1,
        **{f"b/{number:03}.png": 1 for number in range(61, 100)},
    }
    for key, content in contents(source).items():
        assert content == (folder / key).read_bytes()


@pytest.mark.parametrize("given", [{}, {"label_column": None}])
def test_a_folder_without_sub_folders_or_without_interest_in_them_has_no_labels(folder, settings, given):
    source = open_source(settings(path=folder if given else folder / "a", **given))
    assert source.classes == () and {row.label for row in source.rows} == {NO_LABEL}
    assert len(source.rows) == (100 if given else 60)


def test_a_picture_beside_the_class_folders_has_no_class(folder, settings):
    (folder / "lost.png").write_bytes((folder / "a" / "000.png").read_bytes())
    wrong = {row.key: row.wrong for row in open_source(settings(path=folder)).rows if row.wrong}
    assert wrong.keys() == {"lost.png"} and "beside the class folders" in wrong["lost.png"]


def test_an_empty_class_folder_is_named(folder, settings):
    (folder / "c").mkdir()
    (folder / "c" / "readme.txt").write_text("none yet")
    with pytest.raises(UserError, match=f"no picture in the class folder {folder / 'c'}\n.*\nway out"):
        open_source(settings(path=folder))


def test_a_folder_without_a_picture_says_what_it_holds(tmp_path, settings):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=f"no picture in {tmp_path}\nexpected: .*.png.*holds 1 other files"):
        open_source(settings(path=tmp_path))


def test_a_path_that_is_missing_or_wrong_is_named_with_the_nearest(folder, settings):
    with pytest.raises(UserError, match="data.path is missing"):
        open_source(settings())
    with pytest.raises(UserError, match="nothing at .*picturs\ndid you mean 'pictures'"):
        open_source(settings(path=folder.parent / "picturs"))
    with pytest.raises(UserError, match="000.png is a file"):
        open_source(settings(path=folder / "a" / "000.png"))


def test_a_file_that_goes_away_is_a_bad_picture(folder, settings):
    source = open_source(settings(path=folder))
    (folder / "a" / "007.png").unlink()
    content = contents(source)["a/007.png"]
    assert isinstance(content, BadRow) and "No such file" in str(content)


# Digits


def test_digits_are_scaled_exactly_and_keep_their_labels(settings):
    from sklearn.datasets import load_digits

    source, given = open_source(settings(source="digits", channels=1)), load_digits()
    assert len(source.rows) == 1797 and source.classes == tuple("0123456789")
    for row, pixels in zip(source.rows, source.read(source.rows), strict=True):
        assert np.array_equal(pixels[..., 0], np.round(given.images[row.row] * 255 / 16))
        assert row.label == given.target[row.row]
    assert load()[0].dtype == np.uint8 and load()[0].max() == 255


def members(source, kept):
    """For each stack, the three digits that are its channels, found by their pixels."""
    pixels, digit_labels = load()
    known = {digit.tobytes(): number for number, digit in enumerate(pixels)}
    rows = [row for row in source.rows if row.held_out == kept]
    for row, stack in zip(rows, source.read(rows), strict=True):
        numbers = [known[stack[..., channel].tobytes()] for channel in range(3)]
        yield row, numbers, digit_labels[numbers]


def test_a_stack_has_the_class_of_its_digits_and_no_digit_is_in_both_splits(settings):
    source = open_source(settings(source="stacked_digits", max_images=1500))
    assert len(source.rows) == 1500 and len(source.classes) == 1000
    used = {False: set(), True: set()}
    for held_out in used:
        for row, numbers, (hundreds, tens, ones) in members(source, held_out):
            assert source.classes[row.label] == f"{hundreds}{tens}{ones}"
            used[held_out].update(numbers)
    assert not used[False] & used[True]
    assert len(used[False]) > 1000 and len(used[True]) > 200  # of 1,437 and 360: all digits take part


def test_a_stack_depends_on_its_number_alone(settings):
    few, many = (open_source(settings(source="stacked_digits", max_images=n)) for n in (50, 500))
    assert few.rows == many.rows[:50]
    wanted = many.rows[40:43]
    for one, other in zip(few.read(wanted), many.read(wanted), strict=True):
        assert np.array_equal(one, other)
    assert len(open_source(settings(source="stacked_digits")).rows) == 20_000


# Fashion-MNIST


@pytest.mark.parametrize("side", [28, 32])
def test_fashion_mnist_keeps_its_own_split_and_32_pixels_are_padded_with_black(fashion_files, settings, side):
    directory, arrays = fashion_files
    source = open_source(settings(source="fashion_mnist", path=directory, image_size=side, channels=1))
    assert source.classes == fashion_mnist.CLASSES
    inner = slice((side - 28) // 2, (side + 28) // 2)
    for held_out, (images, given) in zip((False, True), arrays, strict=True):
        rows = [row for row in source.rows if row.held_out == held_out]
        assert [row.label for row in rows] == given.tolist()
        for pixels, expected in zip(source.read(rows), images, strict=True):
            assert pixels.shape == (side, side, 1)
            assert np.array_equal(pixels[inner, inner, 0], expected)
            assert pixels.sum() == expected.sum()


def test_a_fashion_label_out_of_range_is_wrong(fashion_files, settings, write_idx):
    directory, ((_, given), _) = fashion_files
    write_idx(directory / "train-labels-idx1-ubyte.gz", np.where(np.arange(len(given)) == 3, 10, given))
    rows = open_source(settings(source="fashion_mnist", path=directory, image_size=28, channels=1)).rows
    assert [(row.row, row.wrong) for row in rows if row.wrong] == [(3, "label 10\nexpected: 0 to 9")]


def test_openclipart_has_its_themes_alone_whatever_their_folders_hold(tmp_path, settings, picture, encode):
    for place, theme in enumerate((*openclipart.CLASSES, "shapes", "unsorted")):
        for name in ("a.png", "deep/b.png"):
            file = tmp_path / theme / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode(picture(place)))
    source = open_source(settings(source="openclipart", path=tmp_path))
    assert source.classes == openclipart.CLASSES and "shapes" not in source.classes
    assert len(source.rows) == 2 * len(source.classes) and source.other_files == 4
    for row in source.rows:
        assert row.key.startswith(f"{source.classes[row.label]}/")
    (tmp_path / "food" / "a.png").unlink()
    (tmp_path / "food" / "deep" / "b.png").unlink()
    with pytest.raises(UserError, match="no picture in the class folder .*food"):
        open_source(settings(source="openclipart", path=tmp_path))
