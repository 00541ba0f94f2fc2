"""Before training, the output says which parts a split lacks, and the setting that cures it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ManifestBuilder, Outcome
from tests.helpers import layouts
from vlmbench.data.photos.stock import MAX_LOTS, Stock, read_stocks, write_stocks

Cli = Callable[..., Outcome]
BOTH = "source.pairs.references=1 source.compare_views=false"


def manifest_of(folder: Path, parts: int) -> Path:
    builder = ManifestBuilder(folder)
    for number in range(parts):
        builder.add_part(number)
    builder.write()
    return builder.path


@pytest.mark.slow
def test_the_proposed_shares_give_what_is_lacking(cli: Cli, tmp_path: Path) -> None:
    arguments = ("stage=prepare", "source=manifest", f"source.path={manifest_of(tmp_path, 32)}")
    output = cli(*arguments).out
    lacking = r"the (val|test) set has \d+.* parts: calibration needs 5 in the val set"
    assert re.search(lacking, output)
    (cure,) = re.findall(r"set ('data.split=\{[^}]*\}')", output)

    mended = cli(*arguments, *shlex.split(cure)).out
    assert not re.search(lacking, mended)


@pytest.mark.slow
def test_too_few_parts_have_no_shares(cli: Cli, tmp_path: Path) -> None:
    path = manifest_of(tmp_path, 8)
    output = cli("stage=prepare", "source=manifest", f"source.path={path}").out
    assert "The data have 8 parts; add parts" in output
    assert "data.split={" not in output
    assert "data.folds" not in output


@pytest.mark.slow
def test_few_parts_are_offered_folds_that_suffice(cli: Cli, tmp_path: Path) -> None:
    arguments = ("source=manifest", f"source.path={manifest_of(tmp_path, 13)}")
    output = cli("stage=prepare", *arguments).out
    offer = r"or test every part once: add (data.folds=5 'data.split=\{[^}]*\}' -m)"
    (cure,) = re.findall(offer, output)

    tiny = ("stage=check", "model=llama32_tiny", "trainer=debug", "tracking=off")
    poor = cli(*tiny, *arguments, "data.folds=5", "-m")
    mended = cli(*tiny, *arguments, *shlex.split(cure))
    lacking = "parts: calibration needs 5 in the val set"
    assert (poor.out + poor.err).count(lacking) == 5
    assert lacking not in mended.out + mended.err
    assert mended.code == 0
    assert mended.out.count("  checked  ") == 5


@pytest.mark.slow
def test_many_parts_are_offered_no_folds(cli: Cli, tmp_path: Path) -> None:
    settings = (
        "source=parts",
        "source.num_parts=60",
        "data.split={train: 0.9, val: 0.05, test: 0.05}",
    )
    output = cli("stage=prepare", *settings).out
    assert "parts: calibration needs" in output
    assert "data.folds" not in output


@pytest.mark.slow
def test_lots_are_not_called_parts(cli: Cli, tmp_path: Path) -> None:
    layouts.plain(tmp_path / "set")
    output = cli("stage=prepare", "source=folder", "source.path=set").out
    assert re.search(r"records of \d+ lots, 24 images", output)


def _photos(folder: Path, *, parts: int, photos: int) -> None:
    """Photos of `parts` parts, for each label `photos` of each part."""
    for number in range(parts * photos):
        for shift, label in enumerate(("good", "bad")):
            part, photo = divmod(number, photos)
            name = f"part{part:02d}_{photo}.png"
            layouts.photo(folder / label / name, 1000 * shift + number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parts", "photos", "settings", "cure"),
    [
        (6, 5, [], "source.compare_views=false"),
        (7, 2, ["source.pairs.references=3"], BOTH),
        (20, 1, [], "source.pairs.references=1"),
        (20, 1, ["source.pairs.lots=3"], "source.pairs.lots=null"),
    ],
)
def test_the_cure_makes_more_lots(
    cli: Cli, tmp_path: Path, parts: int, photos: int, settings: list[str], cure: str
) -> None:
    _photos(tmp_path / "set", parts=parts, photos=photos)
    prepare = ["stage=prepare", "source=folder", "source.path=set", *settings]
    output = cli(*prepare).out
    (before,) = re.findall(r"All photos make (\d+) lots", output)
    (printed,) = re.findall(r"set (source\.\S+=\w+(?: source\.\S+=\w+)?)", output)
    assert printed == cure

    mended = cli(*prepare, *printed.split()).out
    (after,) = re.findall(r"records of (\d+) lots", mended)
    assert int(after) > int(before)
    assert cure not in mended


@pytest.mark.slow
def test_defects_of_few_parts_are_told(cli: Cli, tmp_path: Path) -> None:
    for number in range(36):
        layouts.photo(tmp_path / "set" / "good" / f"part{number:02d}_0.png", number)
    for number in range(12):
        name = f"part{90 + number % 4}_{number}.png"
        layouts.photo(tmp_path / "set" / "bad" / name, 1000 + number)
    output = cli("stage=prepare", "source=folder", "source.path=set").out
    expected = "The 12 abnormal photos of 4 parts make 4 lots; add photos of other abnormal parts"
    assert expected in output


def test_each_category_is_counted_for_itself(tmp_path: Path) -> None:
    def stock(good: int, bad: int) -> Stock:
        return Stock(good=good, bad=bad, good_parts=good, bad_parts=bad, fewest=1)

    write_stocks(tmp_path, [stock(7, 9), stock(7, 9)])
    found = read_stocks(tmp_path / "manifest.jsonl")
    assert found == [stock(7, 9), stock(7, 9)]
    assert [each.count_lots(references=2, parts=2) for each in found] == [1, 1]  # 14 // 4 is 3
    assert [each.count_lots(references=1, parts=2) for each in found] == [2, 2]


@pytest.mark.parametrize("content", ["{", "[]", '[{"good": -1}]', '[{"good": 1e400}]', "\ud800"])
def test_a_damaged_count_of_photos_costs_only_the_cure(tmp_path: Path, content: str) -> None:
    (tmp_path / "lots.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    assert read_stocks(tmp_path / "manifest.jsonl") == []


@pytest.mark.slow
def test_photos_of_few_parts_have_no_setting_as_their_cure(cli: Cli, tmp_path: Path) -> None:
    _photos(tmp_path / "set", parts=9, photos=1)
    settings = ["source.pairs.references=1", "source.compare_views=false"]
    output = cli("stage=prepare", "source=folder", "source.path=set", *settings).out
    assert "All photos make 3 lots; add good photos of more parts" in output


@pytest.mark.slow
def test_rare_defects_are_told_before_training(cli: Cli, tmp_path: Path) -> None:
    for i in range(30):
        layouts.photo(tmp_path / "set" / "good" / f"g{i}.png", i)
    for i in range(3):
        layouts.photo(tmp_path / "set" / "bad" / f"b{i}.png", 100 + i)
    output = cli("stage=prepare", "source=folder", "source.path=set").out
    assert "The 3 abnormal photos make 3 lots; add photos that are abnormal" in output
    assert re.search(r"the test set has 1 abnormal of \d+ raw pairs: the rate of misses", output)


@pytest.mark.parametrize(("share", "needed"), [(0.1, 5), (0.2, 10)])
def test_many_photos_suffice_with_the_default_shares(share: float, needed: int) -> None:
    assert share * MAX_LOTS >= needed + 1
