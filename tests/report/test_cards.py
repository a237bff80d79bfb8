import dataclasses

import pytest

from batchnorm.report import wording
from batchnorm.report.cards import card, interval_plot

from .sample_claims import claims, effect


def test_interval_and_band_share_one_axis_around_zero():
    measured = effect(values=(-1.0, 1.0, 0.5), mean=0.0, low=-0.5, high=0.5)
    plot = interval_plot(measured, threshold=0.25)
    assert plot.zero == 120.0
    assert plot.mean == 120.0
    assert plot.band == (92.0, 148.0)
    assert plot.interval == (64.0, 176.0)
    assert [x for x, _ in plot.dots] == [8.0, 176.0, 232.0]


def test_seeds_that_coincide_do_not_hide_each_other():
    dots = interval_plot(effect(values=(1.0, 1.0, 1.0), effect_size=None), 0.2).dots
    assert len(set(dots)) == 3


def test_nothing_measured_gives_no_drawing():
    assert interval_plot(effect(values=(None, None), verdict="not measurable"), 0.2) is None


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.3, 0.9, "the interval lies beyond the band, in its favor."),
        (-0.9, -0.3, "the interval lies beyond the band, against it."),
        (-0.1, 0.1, "the interval lies inside the band."),
        (-0.1, 0.9, "the interval reaches into the band."),
        (None, None, "no interval."),
    ],
)
def test_drawing_is_described_in_words(low, high, words):
    measured = effect(values=(0.1, 0.2), low=low, high=high)
    assert interval_plot(measured, 0.25).description == (
        f"2 of 2 seeds favor batch normalization; {words}"
    )


def test_name_of_an_only_test_is_not_repeated():
    first, second = claims()[:2]
    assert [test.id for test in card(first).tests] == ["1a", "1b"]
    assert [test.id for test in card(second).tests] == [""]


def test_verdict_that_is_not_known_keeps_its_word():
    claim = claims()[4]
    odd = dataclasses.replace(claim.tests[0].headline, verdict="undecided")
    tests = (dataclasses.replace(claim.tests[0], headline=odd),)
    (shown,) = card(dataclasses.replace(claim, tests=tests)).tests
    assert (shown.verdict.word, shown.verdict.slug) == ("undecided", "unmeasured")


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("inconclusive", "because"),
        ("not measurable", "because"),
        ("supported", ""),
        ("depends", ""),
    ],
)
def test_card_without_an_answer_says_why(word, reason):
    claim = claims()[4]
    headline = dataclasses.replace(claim.tests[0].headline, verdict=word, reason="because")
    tests = (dataclasses.replace(claim.tests[0], headline=headline),)
    assert card(dataclasses.replace(claim, tests=tests)).tests[0].reason == reason


def test_every_verdict_has_a_look_of_its_own():
    slugs = [verdict.slug for verdict in wording.verdicts()]
    assert len(set(slugs)) == len(slugs) == 7
    assert wording.verdict("depends").slug == "depends"
