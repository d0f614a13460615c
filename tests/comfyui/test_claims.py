"""`bench claims`: verdicts, the cache that they come from, and the pages that show them."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from loupe.benchmarks import cache, labs
from loupe.benchmarks.cache import Cache, arrays, key_of
from loupe.benchmarks.claims.claim import Comparison, Verdict, differences, verdict
from loupe.benchmarks.claims.page import DOCS, MARK, PAGES, page
from loupe.benchmarks.claims.registry import CLAIMS, arms
from loupe.benchmarks.claims.tables import TABLES
from loupe.benchmarks.settings import DEMOFUSION, all_settings


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_what_is_kept(name):
    text = (DOCS / name).read_text(encoding="utf-8")
    assert text.count("<!-- end -->") == len(list(MARK.finditer(text))) >= 1
    assert page(text, cache.read()) == text, "run: python dev.py bench claims --page"


def test_every_claim_and_every_table_is_on_a_page():
    marks = {(mark["kind"], mark["name"]) for name in PAGES for mark in MARK.finditer((DOCS / name).read_text(encoding="utf-8"))}
    assert marks == {("claims", claim.method) for claim in CLAIMS} | {("table", name) for name in TABLES} | {("count", "all")}


NOISE = np.random.default_rng(0).normal(0, 1, 48)


@pytest.mark.parametrize("shift, less, expected", [(1.0, False, Verdict.SHOWN), (-1.0, False, Verdict.REVERSED), (0.05, False, Verdict.OPEN), (1.0, True, Verdict.REVERSED), (-1.0, True, Verdict.SHOWN)])
def test_a_verdict_is_the_side_of_zero_that_the_interval_lies_on(shift, less, expected):
    assert verdict(Comparison("a", "b", "base", less), NOISE - NOISE.mean() + shift) is expected


@pytest.mark.parametrize("shift, within, expected", [(0.1, 1.0, Verdict.SHOWN), (2.0, 1.0, Verdict.REVERSED), (-2.0, 1.0, Verdict.REVERSED), (0.9, 1.0, Verdict.OPEN), (0.0, 0.05, Verdict.OPEN)])
def test_as_much_means_an_interval_within_the_bounds(shift, within, expected):
    assert verdict(Comparison("a", "b", "base", within=within), NOISE - NOISE.mean() + shift) is expected


def test_differences_are_paired_and_of_shares_in_percent():
    assert differences(Comparison("a", "b", "base"), [3, 4, 5], [1, 1]).tolist() == [2, 3]
    assert differences(Comparison("a", "b", "sharp"), [1.1], [1.0]) == pytest.approx([10])


def test_every_claim_compares_two_ways():
    for claim in CLAIMS:
        for world in claim.worlds:
            comparison = claim.measure(world)
            assert comparison.better != comparison.worse, claim.text
            assert not set(claim.absent) & set(claim.worlds)


def test_each_arm_is_measured_once():
    for found in map(arms, {world for claim in CLAIMS for world in claim.worlds}):
        for known in found.values():
            assert len({key_of(arm) for arm in known}) == len(known)
    assert len({key_of(setting) for setting in all_settings().values()}) > 60


@dataclass(frozen=True)
class Arm:
    value: float = 0.0
    other: int = 0


class Lab:
    world, weights, scale, metrics = "w", ("unet",), 2, ("base", "extra")

    def __init__(self):
        self.measured = []

    def measure(self, arm, i):
        self.measured.append((arm.value, i))
        return None, {"base": arm.value + i, "extra": i}


def test_what_is_kept_is_not_measured_again(tmp_path):
    lab, path = Lab(), tmp_path / "results.json"
    labs.fill(lab, Cache("w", lab.weights, path), [Arm(1.0)], 2)
    labs.fill(lab, Cache("w", lab.weights, path), [Arm(1.0), Arm(2.0)], 3)
    assert lab.measured == [(1.0, 0), (1.0, 1), (1.0, 2), (2.0, 0), (2.0, 1), (2.0, 2)]
    found = arrays(json.loads(path.read_text(encoding="utf-8"))["w"]["results"], Arm(1.0), 2, lab.metrics)
    assert found["base"].tolist() == [1, 2, 3] and found["extra"].tolist() == [0, 1, 2]


def test_a_metric_that_is_new_leaves_the_others(tmp_path):
    lab = Lab()
    kept = Cache("w", lab.weights, tmp_path / "results.json")
    kept.of(Arm(1.0), 2)["base"] = [1.0, 2.0, 3.0]
    labs.fill(lab, kept, [Arm(1.0)], 1)
    assert kept.of(Arm(1.0), 2) == {"base": [1.0, 2.0, 3.0], "extra": [0.0]}
    assert len(arrays(kept.results, Arm(1.0), 2, lab.metrics)["base"]) == 1


def test_two_runs_at_once_keep_what_both_have_measured(tmp_path):
    lab, path = Lab(), tmp_path / "results.json"
    first, second = (Cache("w", lab.weights, path) for _ in range(2))
    labs.fill(lab, first, [Arm(1.0)], 1)
    labs.fill(lab, second, [Arm(2.0)], 1)
    labs.fill(lab, Cache("other", lab.weights, path), [Arm(3.0)], 1)
    assert sum(len(world["results"]) for world in json.loads(path.read_text(encoding="utf-8")).values()) == 3


def test_other_weights_or_results_start_anew(tmp_path, monkeypatch):
    lab, path = Lab(), tmp_path / "results.json"
    labs.fill(lab, Cache("w", lab.weights, path), [Arm(1.0)], 1)
    assert not Cache("w", ("vae",), path).results
    monkeypatch.setattr(cache, "RESULTS", cache.RESULTS + 1)
    assert not Cache("w", lab.weights, path).results


def test_a_key_names_what_differs_from_the_defaults():
    assert key_of(Arm()) == "Arm()" and key_of(Arm(other=3)) == "Arm(other=3)"
    assert key_of(replace(DEMOFUSION, overlap=0.5)) == "Setting(method='demofusion', steps=8, strength=0.6, overlap=0.5)"
