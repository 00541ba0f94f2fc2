"""Which records train."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from vlmbench.data.changes import CHANGES
from vlmbench.data.comparison_kinds import ComparisonKind
from vlmbench.data.variants.matched_control import MatchedControlConfig
from vlmbench.data.variants.single import SingleConfig
from vlmbench.data.variants.with_comparison import WithComparisonConfig
from vlmbench.data.variants.with_self_pairs import WithSelfPairsConfig
from vlmbench.data.variants.without_comparison import WithoutComparisonConfig
from vlmbench.types import ImageRef, Probe, Record, Role, Task, UserError


def record(number: int, task: Task) -> Record:
    image = ImageRef(path=Path("a"), role=Role.QUERY, view="raw")
    return Record(
        id=f"{number}", task=task, images=(image,), answer="normal", label="normal", group="g"
    )


# Four judge_pair, three compare_views, two compare_shapes, one single, one link.
TASKS = [Task.JUDGE_PAIR] * 4 + [Task.COMPARE_VIEWS] * 3 + [Task.COMPARE_SHAPES] * 2
TASKS += [Task.JUDGE_SINGLE, Task.JUDGE_LINK]
RECORDS = [record(number, task) for number, task in enumerate(TASKS)]


def cost(record: Record) -> int:
    return 6 if record.task in (Task.COMPARE_VIEWS, Task.COMPARE_SHAPES) else 2


def test_without_comparison_trains_judge_pair_alone() -> None:
    assert WithoutComparisonConfig().select(RECORDS, cost=cost, seed=0) == [0, 1, 2, 3]


def test_with_comparison_adds_the_chosen_kinds() -> None:
    both = WithComparisonConfig().select(RECORDS, cost=cost, seed=0)
    views = WithComparisonConfig(comparison=[ComparisonKind.views]).select(
        RECORDS, cost=cost, seed=0
    )
    assert (both, views) == (list(range(9)), list(range(7)))


def test_single_trains_single_images() -> None:
    assert SingleConfig().select(RECORDS, cost=cost, seed=0) == [9]


def test_link_records_never_train() -> None:
    for variant in (
        WithoutComparisonConfig(),
        WithComparisonConfig(),
        MatchedControlConfig(),
        SingleConfig(),
    ):
        assert 10 not in variant.select(RECORDS, cost=cost, seed=0)


def test_the_control_trains_as_many_tokens_as_the_comparison() -> None:
    # with_comparison: 4 x 2 + 5 x 6 = 38 tokens; the control: 38 / 2 = 19 judge_pair records.
    chosen = MatchedControlConfig().select(RECORDS, cost=cost, seed=0)

    assert len(chosen) == 19
    assert set(chosen) == {0, 1, 2, 3}
    assert sum(cost(RECORDS[i]) for i in chosen) == 38


def test_the_control_repeats_in_whole_passes() -> None:
    # 15 repeats of four records: three whole passes and three of a fourth.
    counts = Counter(MatchedControlConfig().select(RECORDS, cost=cost, seed=0)[4:])
    assert sorted(counts.values()) == [3, 4, 4, 4]


def test_the_seed_decides_the_control() -> None:
    first, same, different = (
        MatchedControlConfig().select(RECORDS, cost=cost, seed=seed) for seed in (0, 0, 1)
    )
    assert first == same != different


def test_a_kind_that_the_source_lacks_is_left_out_with_a_note() -> None:
    without_shapes = RECORDS[:7]
    for variant in (WithComparisonConfig(), MatchedControlConfig()):
        assert variant.select(without_shapes, cost=cost, seed=0)

        (note,) = variant.notes({Task.JUDGE_PAIR, Task.COMPARE_VIEWS})

        assert "no compare_shapes record" in note
        assert variant.notes({Task.COMPARE_SHAPES, Task.COMPARE_VIEWS}) == []


def test_a_variant_without_any_of_its_records_is_refused() -> None:
    with pytest.raises(UserError, match="no compare_views or compare_shapes record"):
        WithComparisonConfig().select(RECORDS[:4], cost=cost, seed=0)
    with pytest.raises(UserError, match="no judge_single record"):
        SingleConfig().select(RECORDS[:4], cost=cost, seed=0)


def pair(number: int, *, label: str) -> Record:
    reference = ImageRef(path=Path(f"r{number}"), role=Role.REFERENCE, view="raw")
    query = ImageRef(path=Path(f"q{number}"), role=Role.QUERY, view="raw")
    return Record(
        id=f"{number}",
        task=Task.JUDGE_PAIR,
        images=(reference, query),
        answer=f"{label}: as said",
        label=label,
        group=f"g{number}",
    )


PAIRS = [pair(number, label="abnormal" if number % 3 else "normal") for number in range(20)]


def test_self_pairs_show_a_reference_twice_and_are_normal() -> None:
    made = WithSelfPairsConfig(self_share=0.5, changed_share=0.4).make(PAIRS, seed=0)

    assert len(made) == 10
    for each in made:
        reference, query = each.images
        assert (reference.path, reference.role) == (query.path, Role.REFERENCE)
        assert query.role is Role.QUERY
        assert (each.label, each.answer, each.probe) == ("normal", "normal: as said", Probe.SELF)
        assert each.group == PAIRS[int(each.of[0])].group
        assert query.change == each.change
    changes = {each.change for each in made}
    assert "" in changes
    assert len(changes & set(CHANGES)) >= 1


def test_the_seed_and_the_shares_decide_the_self_pairs() -> None:
    def ids(seed: int, **shares: float) -> list[str]:
        return [each.id for each in WithSelfPairsConfig(**shares).make(PAIRS, seed=seed)]

    assert ids(0) == ids(0) != ids(1)
    assert ids(0, self_share=0.0) == []
    assert all(":same:" in name for name in ids(0, self_share=1.0, changed_share=0.0))
    assert not any(":same:" in name for name in ids(0, self_share=1.0, changed_share=1.0))


def test_other_variants_make_no_records() -> None:
    assert WithoutComparisonConfig().make(PAIRS, seed=0) == []
