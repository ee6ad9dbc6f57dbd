"""Emoji from small packages in the published layout: the same in every form, split by name, and never from damage."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from pydantic import ValidationError
from tests.contract.test_translation import PAIRED, Plugin as Translation

from ganrun import DataError, DataSpec, to_unit_range
from ganrun.testing import assert_conforms, train
from ganrun_datasets.emoji import packages
from ganrun_datasets.emoji.catalogue import CATEGORIES, Emoji as Entry, flag, held_out
from ganrun_datasets.emoji.data import Emoji

VENDORS = ("google", "twitter")
TONES = ("1F3FB", "1F3FF")
PER_CATEGORY = 7

FORMS = {
    "packed": "{name}-16.0.0.tgz",
    "packed, below the data set's name": "emoji/{name}-16.0.0.tgz",
    "installed": "node_modules/{name}",
    "unpacked": "package",
    "unpacked under its name": "emoji/{name}",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GANRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GANRUN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


# ── Small packages ────────────────────────────────────────────────────────────────────────────────────────


def entries() -> list[dict]:
    """Seven emoji of each category; those of people have two tones of skin."""
    found = []
    for number, category in enumerate(CATEGORIES):
        for index in range(PER_CATEGORY):
            code = f"{0x1F300 + 16 * number + index:X}"
            tones = {tone: picture(f"{code}-{tone}") for tone in TONES} if category == "People & Body" else {}
            own = {"unified": code, "category": category, "name": "A NAME", **picture(code)}
            found.append({**own, **({"skin_variations": tones} if tones else {})})
    return found


def picture(code: str) -> dict:
    return {"image": f"{code.lower()}.png", "has_img_google": True, "has_img_twitter": True}


def drawn(name: str, vendor: str) -> Image.Image:
    """A disc in its own colour on a transparent background, in one of the modes of the published files."""
    random = np.random.default_rng([VENDORS.index(vendor), *name.encode()])
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[..., :3] = random.integers(0, 256, 3)
    distance = np.hypot(*np.indices((64, 64)) - 31.5)
    pixels[..., 3] = np.clip((30 - distance) * 64, 0, 255)
    mode = ("RGBA", "LA", "P")[sum(name.encode()) % 3]
    image = Image.fromarray(pixels)
    return image.quantize(8) if mode == "P" else image.convert(mode)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def content(vendor: str, listed: list[dict] | None = None) -> dict[str, bytes]:
    """The files of a package, by their names without the outer folder."""
    listed = entries() if listed is None else listed
    images = [each["image"] for entry in listed for each in (entry, *entry.get("skin_variations", {}).values())]
    about = json.dumps({"name": f"emoji-datasource-{vendor}", "version": "16.0.0"}).encode()
    files = {"package.json": about, "emoji.json": json.dumps(listed).encode(), "README.md": b"a note"}
    files[f"img/{vendor}/sheets/64.png"] = b"a sheet"
    return files | {f"img/{vendor}/64/{name}": png(drawn(name, vendor)) for name in images}


def write(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a package to a folder, or to a .tgz."""
    if path.suffix != ".tgz":
        for name, each in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(each)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, each in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(each)
            archive.addfile(member, io.BytesIO(each))
    return path


def write_both(root: Path, form: str = "packed") -> Path:
    for vendor in VENDORS:
        write(root / FORMS[form].format(name=f"emoji-datasource-{vendor}"), content(vendor))
    return root


@cache
def packed_google() -> bytes:
    with TemporaryDirectory() as folder:
        return write(Path(folder, "a.tgz"), content("google")).read_bytes()


def data(root: Path | None = None, **chosen) -> Emoji:
    return Emoji(Emoji.Settings(root=None if root is None else str(root), **chosen))


def prepared(root: Path | None = None, **chosen) -> Emoji:
    found = data(root, **chosen)
    found.prepare()
    return found


def refusal(root: Path | None = None, **chosen) -> str:
    with pytest.raises(DataError) as caught:
        prepared(root, **chosen)
    return str(caught.value)


# ── Forms and places ──────────────────────────────────────────────────────────────────────────────────────


def test_every_form_gives_the_same_and_nothing_is_unpacked(tmp_path, monkeypatch):
    found = []
    for number, form in enumerate(FORMS):
        root = write_both(tmp_path / str(number), form)
        before = sorted(root.rglob("*"))
        monkeypatch.setenv("GANRUN_DATA", str(root))
        pairs = prepared(paired=True)
        assert sorted(root.rglob("*")) == before
        assert pairs.locate().is_relative_to(root)
        found.append((pairs.fingerprint(), pairs.fingerprint("test"), pairs.manifest()["versions"]))
    assert found == [found[0]] * len(FORMS)
    assert found[0][2] == {"google": "16.0.0", "twitter": "16.0.0"}


def test_root_may_be_the_archive_and_the_newest_one_is_read(tmp_path):
    root = write_both(tmp_path / "all")
    archive = root / "emoji-datasource-google-16.0.0.tgz"
    older = write(root / "emoji-datasource-google-9.0.0.tgz", content("google", entries()[:20]))
    assert data(root).locate() == data(archive).locate() == archive
    assert data(older).locate() == older
    assert data(archive, vendor="twitter").locate() == root / "emoji-datasource-twitter-16.0.0.tgz"
    assert prepared(archive, paired=True).fingerprint() == prepared(root, paired=True).fingerprint()


def test_absent_files_are_told_with_the_commands_that_get_them(tmp_path):
    text = refusal()
    assert "npm pack emoji-datasource-google" in text and f"{tmp_path}/data/emoji" in text
    write(tmp_path / "data/package", content("google"))
    assert len(prepared().split("train")) == 60
    assert "npm pack emoji-datasource-twitter" in refusal(paired=True)


# ── Records ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 90)])
def test_pictures_of_every_mode_are_laid_on_the_colour(tmp_path, background):
    found = prepared(write_both(tmp_path), size=64, background=background)
    images = {name: image for split in ("train", "test") for name, image in rows(found, split)}
    assert len(images) == 70
    for name, image in images.items():
        colours = np.asarray(drawn(name, "google").convert("RGBA")).astype(float).transpose(2, 0, 1)
        opacity = colours[3] / 255
        expected = opacity * colours[:3] + (1 - opacity) * np.array(background)[:, None, None]
        assert np.abs(image - expected).max() <= 1


def rows(found: Emoji, split: str) -> list[tuple[str, np.ndarray]]:
    begin, end = found.layout.splits[split]
    names = [name.rpartition("/")[2] for name in found.layout.names[begin:end]]
    return list(zip(names, found.split(split).images, strict=True))


def test_labels_are_the_categories(tmp_path):
    found = prepared(write_both(tmp_path))
    expected = {each["image"]: each["category"] for each in entries()}
    for split in ("train", "test"):
        labels = found.split(split).labels
        assert [CATEGORIES[label] for label in labels] == [expected[name] for name, _ in rows(found, split)]
    assert found.class_names() == CATEGORIES
    assert data(tmp_path / "nowhere").spec() == DataSpec((3, 32, 32), classes=10)


@pytest.mark.parametrize("vendor", VENDORS)
def test_records_are_pairs_of_one_name(tmp_path, vendor):
    root = write_both(tmp_path)
    other = next(each for each in VENDORS if each != vendor)
    pairs, alone = prepared(root, vendor=vendor, paired=True, skin_tones=True), prepared(root, vendor=other)
    assert pairs.spec().fields == {"source": (3, 32, 32)}
    sources = dict(rows(prepared(root, vendor=other, skin_tones=True), "test"))
    split = pairs.split("test")
    for (name, image), source in zip(rows(pairs, "test"), split.beside["source"], strict=True):
        assert np.array_equal(source, sources[name]) and not np.array_equal(source, image)
    assert pairs.fingerprint() != alone.fingerprint()
    before = pairs.fingerprint()
    changed = content(other) | {f"img/{other}/64/{pairs.layout.names[0].rpartition('/')[2]}": png(drawn("x", other))}
    write(root / f"emoji-datasource-{other}-16.0.0.tgz", changed)
    assert prepared(root, vendor=vendor, paired=True, skin_tones=True).fingerprint() != before


def test_what_one_vendor_has_not_drawn_is_left_out_with_a_warning(tmp_path, caplog):
    listed = entries()
    listed[3]["has_img_twitter"] = False
    for vendor in VENDORS:
        write(tmp_path / f"emoji-datasource-{vendor}.tgz", content(vendor, listed))
    assert prepared(tmp_path).manifest()["left_out"] == 0
    assert prepared(tmp_path, paired=True).manifest()["left_out"] == 1
    assert "1 pictures are left out, since google or twitter has not drawn them" in caplog.text


def test_a_translator_learns_from_one_vendors_drawings_to_make_the_others(tmp_path):
    root = write_both(tmp_path / "all")
    quiet = dict.fromkeys(("mlflow", "progress", "samples"), False)
    tables = PAIRED | quiet | {"train": {"steps": 2, "batch_size": 4, "device": "cpu", "share": 0.5}}
    tables |= {"data": {"use": "emoji", "root": str(root), "size": 16, "paired": True}}
    run = train(tables, tmp_path / "run", Translation())
    assert len(run.training_split) == 30 and run.step == 2
    sources = {
        to_unit_range(torch.from_numpy(each)).numpy().tobytes() for each in run.data.split("test").beside["source"]
    }
    assert all(each.numpy().tobytes() in sources for each in run.model.fixed_latents(5).unflatten(1, (3, 16, 16)))


# ── The split ─────────────────────────────────────────────────────────────────────────────────────────────

CODES = st.sampled_from(["1F3C3", "1F33E", "1F466", "1F468", "1F469", "1F9D1", "2640", "200D", "FE0F", "1F697", "2764"])
LISTS = st.lists(st.lists(CODES, min_size=1, max_size=4).map("-".join), unique=True, max_size=60)


def entry(unified: str, category: str = "Objects") -> Entry:
    return Entry(unified=unified, category=category, image=f"{unified.lower()}.png", has_img_google=True)


@given(LISTS, st.randoms())
def test_a_fifth_is_for_testing_whatever_the_order_and_subjects_stay_together(names, random):
    listed = [entry(name, CATEGORIES[len(name) % 2]) for name in names]
    found = held_out(listed)
    for category in CATEGORIES[:2]:
        own = [each for each in listed if each.category == category]
        assert len(found & {each.unified for each in own}) <= len(own) // 5
        train, test = ({each.subject for each in own if (each.unified in found) is part} for part in (False, True))
        assert not train & test
    random.shuffle(listed)
    assert held_out(listed) == found


def test_the_split_is_balanced_and_the_same_for_vendors_variants_and_packages(tmp_path):
    root = write_both(tmp_path)
    plain = {name for name, _ in rows(prepared(root), "test")}
    assert np.bincount(prepared(root).split("test").labels).tolist() == [PER_CATEGORY // 5] * 10
    assert plain == {name for name, _ in rows(prepared(root, vendor="twitter"), "test")}
    names = [{name for name, _ in rows(prepared(root, skin_tones=True), split)} for split in ("train", "test")]
    stems = [{name.removesuffix(".png").partition("-")[0] for name in each} for each in names]
    assert not stems[0] & stems[1] and plain <= names[1]
    assert len(names[0] | names[1]) == 10 * PER_CATEGORY + len(TONES) * PER_CATEGORY


def test_the_split_of_these_names_never_changes():
    listed = [entry(f"{code:X}") for code in range(0x1F600, 0x1F614)]
    assert sorted(held_out(listed)) == ["1F602", "1F605", "1F606", "1F60C"]


def test_people_who_do_the_same_and_flags_that_look_the_same_are_one_subject():
    runners = ["1F3C3", "1F3C3-200D-2640-FE0F", "1F3C3-200D-2642-FE0F"]
    farmers = ["1F468-200D-1F33E", "1F469-200D-1F33E", "1F9D1-200D-1F33E"]
    flags = [flag(country) for country in ("FR", "CP", "MF")]
    for names in (runners, farmers, flags):
        assert len({entry(name).subject for name in names}) == 1
    assert flags[0] == "1F1EB-1F1F7"
    assert len({entry(names[0]).subject for names in (runners, farmers, flags)}) == 3


# ── Damage and malice ─────────────────────────────────────────────────────────────────────────────────────


def changed_list(change) -> bytes:
    listed = entries()
    change(listed)
    return json.dumps(listed).encode()


LISTED = {
    "no JSON": (b"<html>", "damaged emoji.json"),
    "nested without end": (b"[" * 100_000, "damaged emoji.json"),
    "another type": (b'{"a": 1}', "damaged emoji.json"),
    "no code point": (changed_list(lambda found: found[3].update(unified="../x")), "damaged emoji.json (3.unified"),
    "another category": (changed_list(lambda found: found[3].update(category="Skin\x1b[2J")), "version 7 or later"),
    "a picture twice": (changed_list(lambda found: found[3].update(image=found[4]["image"])), "more than once"),
    "an emoji twice": (changed_list(lambda found: found[3].update(unified=found[4]["unified"])), "more than once"),
    "a path out": (changed_list(lambda found: found[3].update(image="../../emoji.json")), "lacks 1 of 70 pictures"),
    "an absent picture": (
        changed_list(lambda found: found[3].update(image="a.png")),
        "the first is img/google/64/a.png",
    ),
}


@pytest.mark.parametrize("form", ["packed", "unpacked"])
@pytest.mark.parametrize("case", LISTED)
def test_a_list_that_does_not_fit_is_refused(tmp_path, case, form):
    bad, message = LISTED[case]
    path = tmp_path / FORMS[form].format(name="emoji-datasource-google")
    write(path, content("google") | {"emoji.json": bad})
    text = refusal(tmp_path)
    assert message in text and str(path) in text and "\x1b" not in text


PICTURES = {
    "empty": (b"", "it is empty"),
    "truncated": (png(drawn("a", "google"))[:-40], "cannot be read"),
    "another size": (png(drawn("a", "google").resize((32, 32))), "is 32×32 pixels, not 64×64"),
    "a web page": (b"<html>", "it is a web page"),
}


@pytest.mark.parametrize("case", PICTURES)
def test_a_damaged_picture_is_named(tmp_path, case):
    bad, message = PICTURES[case]
    write(tmp_path / "emoji-datasource-google.tgz", content("google") | {"img/google/64/1f303.png": bad})
    text = refusal(tmp_path)
    assert message in text and "1f303.png" in text


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_truncated_or_changed_archive_is_refused_or_read_as_it_was(tmp_path, drawing):
    path, whole = tmp_path / "emoji-datasource-google.tgz", packed_google()
    path.write_bytes(whole)
    expected = prepared(path).fingerprint()
    cut, place = drawing.draw(st.booleans()), drawing.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:place] if cut else whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
    try:
        assert prepared(path).fingerprint() == expected
    except DataError as error:
        assert f"{path} is truncated or damaged" in str(error)


def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "LARGEST_PACKAGE_BYTES", 1 << 20)
    path = tmp_path / "emoji-datasource-google.tgz"
    write(path, {"img/google/64/a.png": bytes(2 << 20)})
    assert "it unpacks to more than 1,048,576 bytes" in refusal(path)
    header = tarfile.TarInfo("package/emoji.json")
    header.size = 1 << 40
    path.write_bytes(gzip.compress(header.tobuf() + bytes(2 << 20)))
    assert "it unpacks to more than 1,048,576 bytes" in refusal(path)
    path.write_bytes(b"<!doctype html>")
    assert "a web page saved in place of the archive" in refusal(path)


def test_links_in_an_archive_lead_nowhere(tmp_path):
    path = tmp_path / "emoji-datasource-google.tgz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("package/emoji.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    assert "has no emoji.json that can be read: it is absent" in refusal(path)


def test_a_folder_that_is_only_half_there_is_refused(tmp_path):
    folder = write(tmp_path / "package", content("google"))
    shutil.rmtree(folder / "img/google/64")
    (folder / "img/google/64").mkdir()
    assert "lacks 70 of 70 pictures" in refusal(tmp_path)


def test_a_colour_has_three_channels_of_8_bits():
    for background in ((0, 0), (0, 0, 256), (-1, 0, 0)):
        with pytest.raises(ValidationError):
            Emoji.Settings(background=background)


@pytest.mark.parametrize("chosen", [{}, {"paired": True, "vendor": "twitter", "skin_tones": True}])
def test_it_keeps_its_contract(tmp_path, chosen):
    assert_conforms("data", Emoji, {"root": str(write_both(tmp_path / "all")), **chosen})
