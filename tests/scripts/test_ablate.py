"""The arithmetic of an ablation, and the files of variants that come with it."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from jsonargparse import ArgumentParser

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ablate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("ablate")


def test_rates_of_draws_are_those_of_a_loop(ablate: ModuleType) -> None:
    generator = np.random.default_rng(0)
    errors, lengths = generator.integers(0, 4, size=(3, 2, 7)), generator.integers(1, 9, size=7)
    rates = ablate.bootstrap_rates(errors, lengths, num_samples=5, seed=1)
    draws = np.random.default_rng(1)
    of_seeds = draws.multinomial(2, [1 / 2] * 2, size=5)
    of_utterances = draws.multinomial(7, [1 / 7] * 7, size=5)
    for place in range(5):
        seeds, utterances = (
            np.repeat(np.arange(len(counts[place])), counts[place]) for counts in (of_seeds, of_utterances)
        )
        for variant in range(3):
            of_draws = [errors[variant, seed, utterances].sum() / lengths[utterances].sum() for seed in seeds]
            assert rates[place, variant] == pytest.approx(np.mean(of_draws))


def test_a_variant_that_makes_the_same_errors_has_no_change(ablate: ModuleType) -> None:
    def run(offset: int) -> dict:
        errors = [1 + offset, 0, 2, 1]
        counts = {"word_errors": errors, "words": [3, 2, 4, 3], "character_errors": errors, "characters": [9, 9, 9, 9]}
        return {"sets": {"test": counts}}

    rows = ablate.summarise({"none": [run(0), run(1)], "same": [run(0), run(1)], "worse": [run(2), run(3)]}, "test")
    assert rows["none"]["wer"] == pytest.approx(4.5 / 12)
    assert rows["same"]["wer_change_interval"] == [0.0, 0.0]
    assert rows["worse"]["wer_change"] == pytest.approx(6.5 / 4.5 - 1)
    assert rows["worse"]["wer_of_seeds"] == pytest.approx([6 / 12, 7 / 12])


def test_only_whole_variants_are_compared(ablate: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    assert ablate.read_runs(path) == {}
    trained = [("none", 1, 9), ("none", 2, 9), ("a", 1, 9)]
    lines = [f'{{"variant": "{name}", "seed": {seed}, "steps": {steps}}}\n' for name, seed, steps in trained]
    path.write_text("".join(lines))
    runs = ablate.read_runs(path)
    assert {name: len(of_seeds) for name, of_seeds in ablate.finished_runs(runs, ["none", "a"], [1, 2]).items()} == {
        "none": 2
    }
    runs["a", 2] = {"steps": 8}
    with pytest.raises(ValueError, match=r"as many steps, got \[8, 9\]"):
        ablate.finished_runs(runs, ["none", "a"], [1, 2])


def test_a_run_of_another_plan_is_refused(ablate: ModuleType, tmp_path: Path) -> None:
    plan = {"steps": 9, "sets": {"test": {"manifest": "test.jsonl"}}, "variants": {"none": []}}
    jobs = ablate.plan_jobs(plan, ["digits"], tmp_path, [1])
    ablate.check_runs({("none", 1): {"digest": jobs[0].digest}}, jobs, tmp_path)
    ablate.check_runs({}, jobs, tmp_path)
    for changed, recipe in (({"steps": 8}, "digits"), ({"base": {"data": {}}}, "digits"), ({}, "read")):
        others = ablate.plan_jobs(plan | changed, [recipe], tmp_path, [1])
        with pytest.raises(ValueError, match="none, seed 1, was trained by another plan"):
            ablate.check_runs({("none", 1): {"digest": jobs[0].digest}}, others, tmp_path)


def test_a_variant_may_name_others(ablate: ModuleType) -> None:
    variants = {"none": [], "a": [{"x": 1}], "b": [{"y": 2}], "both": ["a", "b"]}
    assert ablate.overlays_of(variants, "both") == [{"x": 1}, {"y": 2}]
    with pytest.raises(ValueError, match="'c'"):
        ablate.overlays_of({"d": ["c"]}, "d")


@pytest.mark.parametrize("path", sorted((ROOT / "scripts" / "ablation").glob("*.yaml")), ids=lambda path: path.stem)
def test_variants_name_classes_and_arguments_that_exist(ablate: ModuleType, path: Path) -> None:
    plan = ablate.read_plan(path)
    assert next(iter(plan["variants"].values())) == []
    for name in plan["variants"]:
        for overlay in ablate.overlays_of(plan["variants"], name):
            assert set(overlay) <= {"trainer", "data", "model"}
            for section, key in (("trainer", "callbacks+"), ("data", "perturbations+")):
                for part in overlay.get(section, {}).get(key, []):
                    module, _, cls = part["class_path"].rpartition(".")
                    parser = ArgumentParser()
                    parser.add_class_arguments(getattr(importlib.import_module(module), cls), "part")
                    parsed = parser.parse_object({"part": part.get("init_args", {})})
                    assert parser.instantiate_classes(parsed).part
