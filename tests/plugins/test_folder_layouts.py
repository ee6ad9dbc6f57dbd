"""The meaning of a folder of pictures: splits, classes and labels, read if names are unambiguous and else refused."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from ganrun import DataError
from ganrun_datasets.image_folder import ImageFolder
from ganrun_datasets.pictures.folders import FolderLayout, read_layout
from ganrun_datasets.pictures.sources import Archive, source_at


def tree(root: Path, *names: str) -> Path:
    """Empty files of these names: a layout opens no picture. `a/{b,c}/1.png` stands for two."""
    for name in names:
        before, brace, rest = name.partition("{")
        inside, _, after = rest.partition("}")
        for each in inside.split(","):
            if brace and "{" in after:
                tree(root, f"{before}{each}{after}")
            else:
                path = root / f"{before}{each}{after}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    return root


def layout(root: Path, **chosen) -> FolderLayout:
    return ImageFolder(ImageFolder.Settings(root=str(root), **chosen)).layout


def content(found: FolderLayout) -> dict[str, dict[str, int] | int]:
    """Pictures by class for each split; their number where there are no classes."""
    rows = {split: slice(*ends) for split, ends in found.splits.items()}
    if found.labels is None:
        return {split: len(found.names[each]) for split, each in rows.items()}
    return {split: dict(Counter(found.classes[n] for n in found.labels[each])) for split, each in rows.items()}


def refusal(root: Path, **chosen) -> str:
    with pytest.raises(DataError) as caught:
        layout(root, **chosen)
    return str(caught.value)


CATS_AND_DOGS = {"cat": 1, "dog": 1}
SPLIT_UP = {"train": CATS_AND_DOGS, "test": CATS_AND_DOGS}

# ── Splits ────────────────────────────────────────────────────────────────────────────────────────────────

READ = {
    "{training,testing}/{cat,dog}/1.png": SPLIT_UP,
    "{Train,Test}/{cat,dog}/1.png": SPLIT_UP,
    "{train,evaluation}/{cat,dog}/1.png": SPLIT_UP,
    "{train,holdout}/{cat,dog}/1.png": SPLIT_UP,
    "{cat,dog}/{train,test}/1.png": SPLIT_UP,
    "{cat,dog}/{train,val,test}/1.png": SPLIT_UP,
    "{cat,dog}_{train,test}/1.png": SPLIT_UP,
    "{train,test}-{cat,dog}/a/1.png": SPLIT_UP,
    "{cat,dog}{Train,Test}/1.png": SPLIT_UP,
    "{train,test}{A,B}/1.png": {"train": {"A": 1, "B": 1}, "test": {"A": 1, "B": 1}},
    "{training,test}_set/{cat,dog}/1.png": SPLIT_UP,
    "{train,val}2017/{cat,dog}/1.png": SPLIT_UP,
    "images/{train,val}/1.png": {"train": 1, "test": 1},
    "{train,test}/images/1.png": {"train": 1, "test": 1},
    "train/{cat,dog}/1.png": {"train": CATS_AND_DOGS},
    "{train_station,bus}/1.png": {"train": {"train_station": 1, "bus": 1}},
    "{10,9,1}/1.png": {"train": {"1": 1, "9": 1, "10": 1}},
    "{cat,dog}/1.png": {"train": CATS_AND_DOGS},
    "cat/1.png": {"train": 1},
    "1.png": {"train": 1},
}


@pytest.mark.parametrize("names", READ)
@pytest.mark.parametrize("outer", ["", "pictures/", "a/b/c/"])
def test_splits_and_classes_are_found_by_name_below_any_outer_folder(tmp_path, names, outer):
    assert content(layout(tree(tmp_path, outer + names))) == READ[names]


def test_classes_that_are_numbers_are_sorted_by_value_and_others_as_text(tmp_path):
    numbers = layout(tree(tmp_path / "a", *(f"{number}/1.png" for number in range(12)), "007/1.png"))
    assert numbers.classes == ("0", "1", "2", "3", "4", "5", "6", "007", "7", "8", "9", "10", "11")
    assert numbers.names == sorted(numbers.names), "files keep their order"
    assert [name.partition("/")[0] for name in numbers.names] == [numbers.classes[label] for label in numbers.labels]
    assert layout(tree(tmp_path / "b", "{2,10,x}/1.png")).classes == ("10", "2", "x")


UNCLEAR = {
    "{train,test,readme}/1.png": "test, train and readme are side by side",
    "{bus,train}/1.png": "train and bus are side by side.* splits = false",
    "{train,test}/1.png 1.png": "test, train and pictures are side by side",
    "{cat,dog}_train/1.png cat_test/1.png": "cat_test, cat_train and dog_train are side by side",
    "Train/1.png train/1.png": "Train, train are side by side",
    "{train,training,test}/1.png": "train, training are side by side",
    "cat/{train,test}/1.png dog/1.png": "test, train are side by side in cat/, so test data may be trained on",
    "cat/{train,test,more}/1.png dog/{train,test}/1.png": "more, test, train are side by side in cat/",
    "{cat,dog}/young/{train,test}/1.png": "test, train are side by side in cat/young/",
    "{test,val}/{cat,dog}/1.png": "there is a folder test, but no folder train",
    "train/{cat,dog}/1.png test/{cat,cow}/1.png": 'only the test split has a class "cow"; give both splits',
    "train/{cat,dog}/1.png test/1.png": "the train split has classes, and the test split has none",
    "train/1.png test/{cat,dog}/1.png": "the test split has classes, and the train split has none",
    "train/{cat,dog}/1.png test/unknown/1.png": "only the .* split has a class",
}  # fmt: skip


@pytest.mark.parametrize("names", UNCLEAR)
def test_what_is_unclear_is_refused_with_what_was_seen(tmp_path, names):
    with pytest.raises(DataError, match=UNCLEAR[names]):
        layout(tree(tmp_path, *names.split()))


def test_the_setting_decides_what_is_unclear(tmp_path):
    tree(tmp_path, "{train,test}/{cat,dog}/1.png", "extra/{1,2}.png")
    assert content(layout(tmp_path, splits=False)) == {"train": {"train": 2, "test": 2, "extra": 2}}
    assert content(layout(tmp_path, splits=False, labelled=False)) == {"train": 6}
    found = layout(tree(tmp_path, "overview.png"), splits=True)
    assert content(found) == SPLIT_UP
    assert found.unused == {"extra/": 2, "./": 1}
    assert content(layout(tmp_path / "train")) == {"train": CATS_AND_DOGS}
    assert "the folders are cat, dog; none is called train" in refusal(tmp_path / "train", splits=True)


def test_a_second_test_split_is_left_out_and_said_to_be(tmp_path):
    found = layout(tree(tmp_path, "{train,val,test}/{cat,dog}/1.png"))
    assert (found.folders, found.unused) == ({"train": ("train/",), "test": ("test/",)}, {"val/": 2})


split_words = st.sampled_from(["train", "training"]), st.sampled_from(["test", "testing", "val", "valid", "validation"])
arrangements = st.sampled_from(
    ["{split}/{name}/", "{name}/{split}/", "{name}_{split}/", "{split}-{name}/", "{split}/x/{name}/"]
)
class_names = st.text("abcdefghij0123456789 é", min_size=1, max_size=6).filter(lambda name: name == name.strip())


@settings(max_examples=200, deadline=None)
@given(
    words=st.tuples(*split_words),
    spell=st.sampled_from([str.lower, str.upper, str.title]),
    arrangement=arrangements,
    classes=st.sets(class_names, min_size=2, max_size=4),
    outer=st.sampled_from(["", "data/", "my data/v1/"]),
)
def test_no_picture_for_testing_is_trained_on(tmp_path_factory, words, spell, arrangement, classes, outer):
    path = tmp_path_factory.mktemp("zips") / "1.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for split, word in zip(("train", "test"), words, strict=True):
            for name in classes:
                archive.writestr(f"{outer}{arrangement.format(split=spell(word), name=name)}{split}.png", b"")
    found = read_layout(Archive(path), labelled=True)
    assert set(found.classes) == classes
    for split, ends in found.splits.items():
        assert all(name.endswith(f"/{split}.png") for name in found.names[slice(*ends)])
    assert set(found.splits) == {"train", "test"}


# ── What is no picture, and what is no class ──────────────────────────────────────────────────────────────

JUNK = (
    *("cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "@eaDir/1.jpg", "dog/.@__thumb/default1.jpg", "cat/.thumbnails/1.png"),
    *("#recycle/3.png", "$RECYCLE.BIN/S-1-5/$R.png", "@Recycle/cat/1.png", ".Trash-1000/files/1.png"),
    *("lost+found/9.png", ".ipynb_checkpoints/1.png", ".git/logo.png", "__MACOSX/cat/._1.png", "cat/._1.png"),
)


@pytest.mark.parametrize("is_zip", [False, True])
def test_what_systems_leave_behind_is_no_picture(tmp_path, is_zip):
    root = tree(tmp_path / "root", "{cat,dog}/1.png", *JUNK)
    if is_zip:
        with zipfile.ZipFile(tmp_path / "root.zip", "w") as archive:
            for file in root.rglob("*"):
                archive.write(file, file.relative_to(root))
        root = tmp_path / "root.zip"
    assert content(layout(root)) == {"train": CATS_AND_DOGS}
    skipped = source_at(root).listing.skipped
    assert skipped["@eaDir"] == 2 and skipped["#recycle"] == skipped["lost+found"] == skipped["__MACOSX"] == 1


@pytest.mark.parametrize("is_zip", [False, True])
def test_empty_folders_are_told(tmp_path, is_zip):
    root = tree(tmp_path / "root", "{cat,dog}/1.png", "cow/.DS_Store", "cat-2/a/1.png")
    (root / "fox").mkdir()
    if is_zip:
        with zipfile.ZipFile(tmp_path / "root.zip", "w") as archive:
            for file in root.rglob("*"):
                archive.write(file, file.relative_to(root))
        root = tmp_path / "root.zip"
    assert layout(root).notes == ("2 folders are empty, so that they are no classes; the first is cow/",)


MASKED = [
    ("images/1.png masks/1.png", "masks seems to hold masks"),
    ("train/{images,labels}/1.png", "train/labels seems to hold masks"),
    ("{cat,dog}/{images,masks}/1.png", "cat/masks seems to hold masks"),
    ("1.png 2.png mask/1.png", "mask seems to hold masks"),
    ("{cat,dog}/1.png {cat,dog}/thumbs/1.png", "cat/thumbs seems"),
    ("{cat,dog,Thumbnails}/1.png", "Thumbnails seems"),
]


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(("names", "reason"), MASKED)
def test_masks_and_thumbnails_beside_pictures_are_refused(tmp_path, names, reason, labelled):
    assert reason in refusal(tree(tmp_path, *names.split()), labelled=labelled)


def test_folders_of_such_names_alone_are_classes(tmp_path):
    found = layout(tree(tmp_path, "{mask,no_mask}/1.png"))
    assert (found.classes, found.notes) == (("mask", "no_mask"), ())


NOTED = [
    ("{a,b}/{x,y}/1.png", "the classes are a, b, and each holds the folders x, y; if these are the classes"),
    ("train/{a,b}/{x,y}/1.png", "each holds the folders x, y"),
    ("{Cat,cat}/1.png", "Cat, cat are different classes, though their names differ in case or spelling alone"),
    ("{cafe\u0301,café}/1.png", "are different classes"),
    ("{007,7}/1.png", "007, 7 are different classes"),
    ("{a,b}/{1.png,metadata.csv}", "a/metadata.csv is not read, since it is below a class"),
    ("a/1.jpg b/2.jpg a/1_mask.png b/3_mask.png", "1 of 4 pictures have the names of masks of others"),
]


@pytest.mark.parametrize(("names", "note"), NOTED)
def test_what_looks_like_a_mistake_is_noted(tmp_path, names, note):
    (found,) = layout(tree(tmp_path, *names.split())).notes
    assert note in found


def test_packed_pictures_are_told(tmp_path):
    assert "set root to one that is a zip" in refusal(tree(tmp_path, "{train,test}.zip"))


def test_names_with_control_characters_are_escaped(tmp_path):
    data = ImageFolder(ImageFolder.Settings(root=str(tree(tmp_path, "a\nb\x1b[31m/1.png", "c/1.png"))))
    assert data.class_names() == ("a\\nb\\x1b[31m", "c")
    assert "\x1b" not in refusal(tree(tmp_path / "x", "{train,test,\x1b[2J}/1.png"))


@pytest.mark.parametrize(("name", "reason"), [("a/" * 30_000, "folders deep"), ("_" * 60_000, "name of more than 255")])
def test_names_that_no_file_has_are_refused(tmp_path, name, reason):
    with zipfile.ZipFile(tmp_path / "1.zip", "w") as archive:
        archive.writestr(f"{name}1.png", b"")
    assert reason in refusal(tmp_path / "1.zip")
    assert len(refusal(tmp_path / "1.zip")) < 500


def test_a_folder_that_may_not_be_read_is_refused(tmp_path):
    root = tree(tmp_path, "{cat,dog}/1.png")
    (root / "dog").chmod(0)
    if os.access(root / "dog", os.R_OK):
        pytest.skip("this user may read everything")
    assert "dog cannot be read: Permission denied" in refusal(root)
    (root / "dog").chmod(0o400)
    tree(root, "dog/cow/1.png")
    assert "cow cannot be read: Permission denied" in refusal(root)


# ── Lists of labels ───────────────────────────────────────────────────────────────────────────────────────


def stylegan(*labels) -> str:
    return json.dumps({"labels": labels})


def pictures(root: Path) -> Path:
    return tree(root, "{00000,00001}/{1,2}.png")


ALL = ("00000/1.png", "00000/2.png", "00001/1.png", "00001/2.png")
NUMBERS = [*zip(ALL, (10, 9, 9, 10), strict=True)]
LISTS = {
    "dataset.json": stylegan(*NUMBERS),
    "metadata.csv": "\n".join(["file_name,label", *(f"{name},{label}" for name, label in NUMBERS)]),
    "Metadata.csv": "\r\n".join(
        ["\ufefftext;label;file_name", *(f'"a;b";{label};{name}' for name, label in NUMBERS), ""]
    ),
    "metadata.jsonl": "\n".join(json.dumps({"file_name": f"./{name}", "label": label}) for name, label in NUMBERS),
}


@pytest.mark.parametrize("file", LISTS)
@pytest.mark.parametrize("outer", ["", "outer/"])
def test_a_list_of_labels_goes_before_folders(tmp_path, file, outer):
    pictures(tmp_path / outer)
    (tmp_path / outer / file).write_text(LISTS[file], encoding="utf-8")
    found = layout(tmp_path)
    assert (found.classes, found.labels.tolist()) == (("9", "10"), [1, 0, 0, 1])
    assert list(found.label_files) == [outer + file]
    assert found.notes == ()
    assert layout(tmp_path, labelled=False).labels is None


def test_lists_may_be_of_one_split_each_or_of_all(tmp_path):
    tree(tmp_path, "{train,test}/{1,2}.png")
    rows = [(f"{split}/{number}.png", name) for split in ("train", "test") for number, name in ((1, "dog"), (2, "cat"))]
    (tmp_path / "dataset.json").write_text(stylegan(*rows))
    assert content(layout(tmp_path)) == SPLIT_UP
    (tmp_path / "dataset.json").unlink()
    tree(tmp_path, "validation/{1,2}.png")
    for split in ("train", "test", "validation"):
        (tmp_path / split / "metadata.csv").write_text("file_name,label\n1.png,dog\n2.png,cat\n")
    assert content(layout(tmp_path)) == SPLIT_UP
    assert layout(tmp_path).notes == ()
    (tmp_path / "dataset.json").write_text(stylegan(*rows))
    assert "dataset.json and train/metadata.csv list labels of the same" in refusal(tmp_path)


def test_null_says_that_there_are_no_labels(tmp_path):
    (pictures(tmp_path) / "dataset.json").write_text('{"labels": null}')
    assert content(layout(tmp_path)) == {"train": 4}


REFUSED_LISTS = [
    ("dataset.json", stylegan(*NUMBERS[:3]), "lacks 1 of 4 pictures, such as 00001/2.png"),
    ("dataset.json", stylegan(*NUMBERS, ["x.png", 1]), "label 5: there is no picture x.png"),
    ("dataset.json", stylegan(*NUMBERS, ["../../1.png", 1]), "there is no picture"),
    ("dataset.json", stylegan(*NUMBERS, NUMBERS[0]), "label 5: 00000/1.png is listed before"),
    ("dataset.json", stylegan(*NUMBERS[:3], [ALL[3], "cat"]), "some labels are numbers and some are names"),
    *(
        ("dataset.json", stylegan(*NUMBERS[:3], [ALL[3], odd]), "label 4: the label")
        for odd in (None, True, 1.0, -1, [0, 1], "", "0.5", "a\0", {"a": 1})
    ),
    ("dataset.json", stylegan([3, 1]), "3 is not a file name"),
    ("dataset.json", '{"labels": {"a": 1}}', "are not pairs"),
    ("dataset.json", '{"labels": [', "cannot be read as a list of labels"),
    ("dataset.json", "[" * 100_000, "cannot be read as a list of labels"),
    ("metadata.csv", f"file_name,label\n{ALL[0]}\n", "line 2 does not have the 2 fields"),
    ("metadata.csv", f"file_name,label\n{ALL[0]},\n", "line 2: the label '' is neither"),
    ("metadata.csv", f'file_name,label\n{ALL[0]},"a\n', "cannot be read as a list of labels"),
    ("metadata.jsonl", f'{{"file_name": "{ALL[0]}", "label": 1}}\n\n{{"file_name": "{ALL[1]}"}}', "line 3: the"),
    ("metadata.jsonl", '{"file_name": "1", "label": 2}\n[]', "line 2 is not an object"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "text", "reason"), REFUSED_LISTS)
def test_a_list_that_is_not_sure_is_refused(tmp_path, file, text, reason):
    (pictures(tmp_path) / file).write_text(text)
    message = refusal(tmp_path)
    assert message.startswith(file) and reason in message
    assert "set labelled = false" in message
    assert layout(tmp_path, labelled=False).classes == ()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("dataset.json", '{"images": []}'),
        ("dataset.json", "[1]"),
        ("metadata.csv", "file_name,text\n"),
        ("metadata.csv", "isic_id,age\n"),
        ("metadata.jsonl", '{"file_name": "1.png", "text": "a cat"}'),
    ],
)
def test_a_file_of_another_kind_leaves_the_folders_as_classes_and_is_named(tmp_path, file, text):
    (pictures(tmp_path) / file).write_text(text)
    found = layout(tmp_path)
    assert found.classes == ("00000", "00001")
    assert found.notes[0].startswith(f"{file} has no ") and "not read as a list of labels" in found.notes[0]


# ── What is shown ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_manifest_says_how_folders_were_read(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    root = tree(tmp_path / "root", "{train,test,val}/{cat,dog}/1.png", "notes.txt", "@eaDir/1.jpg")
    for number, path in enumerate(sorted(root.rglob("1.png"))):
        Image.new("RGB", (8, 8), (number, 0, 99)).save(path)
    data = ImageFolder(ImageFolder.Settings(root=str(root), size=8))
    data.prepare()
    manifest = data.manifest()
    assert manifest["splits"] == {"train": "train/", "test": "test/"}
    assert manifest["labels"] == {"train": CATS_AND_DOGS, "test": CATS_AND_DOGS}
    assert manifest["unused"] == {"val/": 2}
    assert manifest["ignored"] == {".txt": 1, "@eaDir/": 1}
    assert json.loads(json.dumps(manifest)) == manifest
    assert "are equal" not in caplog.text
    shutil.copy(root / "train" / "dog" / "1.png", root / "test" / "dog" / "1.png")
    ImageFolder(data.settings).prepare()
    assert (
        "1 of 2 pictures of the test split are equal to some of the train split; the first is test/dog" in caplog.text
    )


NAMES_NOTED = {
    "{00000,01000}/1.png": "the classes are 00000, 01000; if these numbers only divide the pictures",
    "{CelebA-HQ-img,CelebAMask-HQ-mask-anno}/1.png": "if CelebAMask-HQ-mask-anno holds masks of the other pictures",
    "{0001,0002}/1.png": "",
    "{with_mask,without_mask}/1.png": "",
}


@pytest.mark.parametrize("names", NAMES_NOTED)
def test_classes_with_the_names_of_other_folders_are_noted(tmp_path, names):
    (note,) = layout(tree(tmp_path, names)).notes or ("",)
    assert (NAMES_NOTED[names] in note) if NAMES_NOTED[names] else not note
    assert layout(tmp_path, labelled=False).notes == ()
