"""Regimes of training data in the results: groups of classes, notes, marks, captions, and figures over each of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kdcore.data import regimes, subsets
from kdcore.data.sources import digits
from kdcore.matrix.train_images import as_numbers, flat
from kdcore.results import captions, evaluation, figures, regime_notes, shots, tables
from kdcore.results.ablation import ablations
from kdcore.results.rows import Results, read_evaluation
from kdcore.system.files import write_json
from kdcore.training import loop, run_folder
from kdcore.training.inference import predict
from tests import made_up
from tests.train import CPU, top1_of

PAIR = made_up.PAIRS[0]
SYMMETRIC, PAIRFLIP = ({"kind": kind, "rate": 0.4} for kind in ("symmetric", "pairflip"))


def study(variants, settings, **options):
    named = {name: {"train": train} for name, train in variants.items()}
    return made_up.matrix(pairs=[PAIR], variants=named, settings=settings, methods=("kd",), scales=(1,), **options)


class TestGroupsOfClasses:
    def test_published_limits_where_they_leave_none_empty(self):
        """CIFAR-100-LT: many of more than 100 images, medium of 20 to 100, few of fewer than 20."""
        counts = regimes.used([500] * 100, {"long_tail": 100})
        kind, groups = shots.grouped(counts)
        assert kind == "counts"
        assert {name: len(classes) for name, classes in groups.items()} == {"head": 35, "medium": 35, "tail": 30}
        assert min(counts[k] for k in groups["head"]) > 100 >= max(counts[k] for k in groups["medium"])
        assert min(counts[k] for k in groups["medium"]) >= 20 > max(counts[k] for k in groups["tail"])

    def test_limits_belong_to_the_middle(self):
        assert shots.grouped([101, 100, 20, 19]) == ("counts", {"head": [0], "medium": [1, 2], "tail": [3]})

    @pytest.mark.parametrize(("counts", "expected"), [
        ([9, 8, 7, 6, 5, 4, 3], [[0, 1], [2, 3, 4], [5, 6]]),
        ([3, 9, 5, 5], [[1], [2, 3], [0]]),
        ([500, 50], [[0], None, [1]]),
        ([500, 400, 300], [[0], [1], [2]]),
        ([7], [[0], None, None]),
    ])  # fmt: skip
    def test_thirds_of_the_classes_elsewhere(self, counts, expected):
        kind, groups = shots.grouped(counts)
        assert kind == "thirds"
        assert [groups.get(name) for name in shots.GROUPS] == expected

    def test_every_class_is_in_one_group(self):
        for counts in ([5] * 10, list(range(1, 42)), [1000, 1, 50, 50]):
            _, groups = shots.grouped(counts)
            assert sorted(k for classes in groups.values() for k in classes) == list(range(len(counts)))

    def test_accuracies_are_means_over_classes(self):
        """Head: 1 of 1 and 1 of 4 images; medium: none of two; tail: 1 of 1, and a class that no test image is of."""
        true = torch.tensor([0, 1, 1, 1, 1, 2, 2, 4])
        named = torch.tensor([0, 1, 0, 0, 0, 3, 3, 4])
        logits = torch.nn.functional.one_hot(named, 6).float()
        content = shots.measured(logits, true, [64] * 6, {"long_tail": 32})
        assert content == {
            "images": 64 + 32 + 16 + 8 + 4 + 2, "grouped_by": "thirds",
            "head_top1": 62.5, "medium_top1": 0.0, "tail_top1": 100.0,
        }  # fmt: skip

    @pytest.mark.parametrize(("train", "expected"), [
        ({"epochs": 2}, {}), ({"per_class": 5}, {}), ({"label_noise": SYMMETRIC}, {}), ({"share": 0.5}, {"images": 8}),
    ])  # fmt: skip
    def test_only_a_long_tail_has_them(self, train, expected):
        assert shots.measured(torch.zeros(2, 2), torch.tensor([0, 1]), [8, 8], train) == expected


class TestEvaluation:
    NAME = "resnet14-resnet8-vanilla-base-0"

    def evaluated(self, tmp_path, monkeypatch, dataset, train, **card):
        monkeypatch.chdir(tmp_path)
        teacher, student = (loop.create(name, 10, 0, CPU) for name in ("resnet14", "resnet8"))
        run_folder.write(Path("teacher"), teacher, [], {})
        top1 = top1_of(student, dataset)
        rows = [{"epoch": epoch, "train_top1": 20.0, "test_top1": top1, "val_top1": 12.0} for epoch in (1, 2, 3)]
        identity = {"name": self.NAME, "method": "vanilla", "pair": "resnet14-resnet8", "variant": "base", "seed": 0}
        meta = {**identity, **card, "recipe": {}, "train": {"epochs": 3, **train}, "commit": "abc", "device": "cpu: x",
                "threads": 1, "processes": 1, "computed_in": "float32", "versions": {}}  # fmt: skip
        run_folder.write(Path("runs/resnet14-resnet8") / self.NAME, student, rows, meta)
        of = {"pair": "resnet14-resnet8", "cells": [identity], **card}
        summary, _ = evaluation.evaluate_pair(of, dataset, Path("teacher") / run_folder.WEIGHTS, CPU)
        Path("e").mkdir(exist_ok=True)
        write_json(Path("e/metrics.json"), summary)
        return student, read_evaluation(Path("e"))

    def test_a_long_tail_is_measured_by_groups_on_true_labels(self, tmp_path, monkeypatch):
        dataset = digits.fetch(source="embedded", image_size=16, train_per_class=20)
        train = {"long_tail": 4.0, "label_noise": SYMMETRIC}
        student, summary = self.evaluated(tmp_path, monkeypatch, dataset, train, validation=0.2)
        (cell,) = summary["cells"]
        right = predict(student, dataset.test, dataset, CPU).argmax(dim=1).numpy() == dataset.test.labels
        each = [100 * right[dataset.test.labels == k].mean() for k in range(10)]
        got = [cell[f"{name}_top1"] for name in shots.GROUPS]
        assert got == pytest.approx([np.mean(each[:3]), np.mean(each[3:7]), np.mean(each[7:])], abs=1e-3)
        assert cell["top1"] == pytest.approx(100 * right.mean(), abs=1e-3)
        assert (cell["images"], cell["grouped_by"]) == (sum(regimes.used([16] * 10, train)), "thirds")
        assert (cell["long_tail"], cell["label_noise"]) == (4, "symmetric 0.4")
        assert summary["train_images"] == len(subsets.chosen(dataset, validation=0.2).train.labels)

    def test_chance_is_that_of_the_labels_that_were_learnt(self, tmp_path, monkeypatch):
        """By which a network counts as collapsed."""
        dataset, learnt = digits.fetch(source="embedded", image_size=16, train_per_class=64), []
        monkeypatch.setattr(evaluation.collapse, "reason", lambda _named, _top1, labels: learnt.append(labels))
        for train in ({}, {"per_class": 5}, {"share": 0.25}, {"long_tail": 64}):
            self.evaluated(tmp_path, monkeypatch, dataset, train)
        counts = [np.bincount(labels, minlength=10).tolist() for labels in learnt]
        assert counts == [[64] * 10, [5] * 10, [16] * 10, [64, 40, 25, 16, 10, 6, 4, 2, 1, 1]]


class TestAblations:
    @pytest.mark.parametrize(("key", "variants", "settings", "ticks"), [
        ("train.share", {"few": {"share": 0.1}, "half": {"share": 0.5}}, {"share": None}, [0.1, 0.5, 1]),
        ("train.long_tail", {"a": {"long_tail": 10}, "b": {"long_tail": 100}}, {"long_tail": None}, [1, 10, 100]),
        ("train.label_noise.symmetric", {"a": {"label_noise": SYMMETRIC}}, {"label_noise": None}, [0, 0.4]),
        ("train.label_noise.pairflip", {"a": {"label_noise": PAIRFLIP}}, {"label_noise": None}, [0, 0.4]),
        ("train.label_noise.symmetric", {"clean": {"label_noise": None}}, {"label_noise": {**SYMMETRIC, "seed": 0}},
         [0, 0.4]),
    ])  # fmt: skip
    def test_one_over_each_with_all_clean_balanced_data_as_a_point(self, key, variants, settings, ticks):
        made = study(variants, settings)
        (found,) = ablations(made)
        assert (found.key, found.ticks) == (key, ticks)
        assert [line.label for line in found.lines] == ["Student", "KD", "KD + stand"]
        for line in found.lines:
            assert list(line.entries) == ticks
        figure = figures.ablation(made, found)
        (axes,) = [axes for axes in figure.axes if axes.get_title()]
        drawn = {container.get_label(): container for container in axes.containers}
        assert list(drawn) == ["Student", "KD", "KD + stand"]
        for line in found.lines:
            means = [entry.mean for entry in line.entries.values()]
            assert drawn[line.label].lines[0].get_ydata().tolist() == means
            assert drawn[line.label].has_yerr

    def test_two_kinds_of_noise_are_two_ablations_that_share_the_clean_point(self):
        variants = {f"{noise['kind']}{i}": {"label_noise": {**noise, "rate": rate}}
                    for noise in (SYMMETRIC, PAIRFLIP) for i, rate in enumerate((0.2, 0.4))}  # fmt: skip
        found = ablations(study(variants, {"label_noise": None}))
        assert [(one.key, one.ticks) for one in found] == [
            ("train.label_noise.symmetric", [0, 0.2, 0.4]), ("train.label_noise.pairflip", [0, 0.2, 0.4]),
        ]  # fmt: skip
        for one, kind in zip(found, ("symmetric", "pairflip"), strict=True):
            assert {entry.row.variant for entry in one.lines[0].entries.values()} == {"base", f"{kind}0", f"{kind}1"}

    def test_a_grid_has_a_line_for_each_rate(self):
        variants = {f"s{i}n{j}": {"share": share, "label_noise": {**SYMMETRIC, "rate": rate}}
                    for i, share in enumerate((0.1, 0.5)) for j, rate in enumerate((0.2, 0.4))}  # fmt: skip
        (found,) = ablations(study(variants, {"label_noise": None, "share": None}))
        assert found.key == "train.share"
        assert [line.label for line in found.lines][:2] == [
            "Student, label_noise.symmetric=0.2", "Student, label_noise.symmetric=0.4",
        ]  # fmt: skip

    def test_other_seeds_of_noise_are_no_points_of_a_line(self):
        noise = {"label_noise": {**SYMMETRIC, "seed": 1}}
        (found,) = ablations(study({"other": noise, "one": {"label_noise": SYMMETRIC}}, {"label_noise": None}))
        assert {e.row.variant for line in found.lines for e in line.entries.values()} == {"base", "one"}

    def test_settings_without_a_regime_stay_as_they_are(self):
        assert as_numbers({"lr": 0.1, "per_class": None}) == {"lr": 0.1, "per_class": None}
        assert flat({"lr": 0.1, "label_noise": None}) == {"lr": 0.1, "label_noise": None}


def with_values(made, variant, **values):
    """The same results, with more measured of the cells of a variant."""
    evaluations = [
        {**one, "cells": [{**cell, **values} if cell["variant"] == variant else cell for cell in one["cells"]]}
        for one in made.evaluations
    ]
    return Results.of(made.card, evaluations, made.histories, made.published)


class TestWords:
    def test_rows_have_short_names(self):
        noise = {"label_noise": {**SYMMETRIC, "seed": 0}}
        made = study({"noisy": noise, "few": {"share": 0.1}, "lt": {"long_tail": 100}}, {})
        labels = {entry.row.label for entry in made.entries}
        assert {"KD, label_noise.symmetric=0.4", "KD, share=0.1", "KD, long_tail=100"} <= labels

    @pytest.mark.parametrize(("values", "budget"), [
        ({"share": 0.1}, "a share of 0.1 of the training images of each class"),
        ({"label_noise": "pairflip 0.4"}, "label noise (pairflip 0.4)"),
        ({"long_tail": 100}, "a long tail of the training images (the first class has 100 times those of the last)"),
        ({}, ""),
    ])  # fmt: skip
    def test_a_regime_unlike_the_captions_is_marked(self, values, budget):
        made = with_values(study({"other": {"lr": 0.1}}, {"lr": 0.05}), "other", **values)
        of = {entry.row.variant: entry.budget for entry in made.entries if entry.row.method == "kd"}
        assert of == {"base": (), "other": (budget,) if budget else ()}
        assert any(note.startswith("§") and budget in note for note in captions.notes(made)) == bool(budget)

    def test_a_row_without_the_captions_regime_is_marked_too(self):
        made = with_values(study({"all": {"share": None}}, {"share": 0.1}), "base", share=0.1, images=5000)
        made = Results.of({**made.card, "share": 0.1}, made.evaluations, made.histories, made.published)
        of = {entry.row.variant: entry.budget for entry in made.entries if entry.row.method == "kd"}
        assert of == {"base": (), "all": ("without a share of 0.1 of the training images of each class",)}
        said = captions.caption(made.card, made.evaluations)
        assert "24 epochs of 5,000 training images: a share of 0.1 of the training images of each class." in said

    def test_notes_say_what_noise_and_groups_are(self):
        made = study({"lt": {"long_tail": 10}}, {"long_tail": None})
        assert list(regime_notes.notes(made)) == []
        groups = {"head_top1": 80.0, "medium_top1": 60.5, "tail_top1": 20.0, "grouped_by": "thirds"}
        made = with_values(made, "lt", long_tail=10, images=100, **groups)
        first, second = regime_notes.notes(made)
        assert first.startswith(
            "Long tail: head / medium / tail are the third of the classes with most training images"
        )
        assert second == (
            f"{PAIR}, long tail, head / medium / tail (%): Student, long_tail=10 80.00 / 60.50 / 20.00; "
            "KD, long_tail=10 80.00 / 60.50 / 20.00; KD + stand, long_tail=10 80.00 / 60.50 / 20.00."
        )
        assert second in captions.notes(made)
        (noise, *_) = regime_notes.notes(with_values(made, "base", label_noise="symmetric 0.4"))
        assert noise.startswith(
            "Label noise: that share of the training images of each class has a wrong label (symmetric"
        )

    def test_a_row_with_a_missing_seed_has_no_groups(self):
        name = f"{PAIR}-kd-1-False-lt-0"
        made = study({"lt": {"long_tail": 10}}, {"long_tail": None}, missing=[name])
        groups = {"head_top1": 80.0, "tail_top1": 20.0, "grouped_by": "counts"}
        _, second = regime_notes.notes(with_values(made, "lt", **groups))
        assert "KD, long_tail=10" not in second
        assert "Student, long_tail=10 80.00 / – / 20.00" in second

    def test_cells_have_them_as_columns(self):
        groups = {"head_top1": 80.0, "tail_top1": 20.0, "grouped_by": "counts", "images": 100, "long_tail": 10}
        frame = tables.cells(with_values(study({"lt": {"long_tail": 10}}, {}), "lt", **groups)).set_index("name")
        assert frame.loc[f"{PAIR}-kd-1-False-lt-0", "tail_top1"] == 20
        assert np.isnan(frame.loc[f"{PAIR}-kd-1-False-base-0", "tail_top1"])
