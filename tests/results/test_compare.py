"""Revisions, experiments and publications side by side, in a git repository made up by hand."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats

from kdcore.results import compare, revisions, significance, tables
from kdcore.system import yamlfile
from kdcore.system.errors import RunError, UserError
from stages import run
from stages.compare import main
from tests import made_up

ROOT = Path(__file__).parents[2]
PAIR = "resnet56-resnet20"
PLAIN, SDD, SDD_STAND = ("kd", 1, False), ("kd", 4, False), ("kd", 4, True)
NOISY = (70.0, 70.4, 69.8, 70.2)
BETTER = (72.0, 72.5, 71.7, 72.2)
"""Two points above NOISY, seed by seed, give or take a tenth."""
WORSE = (68.1, 68.3, 67.7, 68.2)

LAUGHS = "train:\n  a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"  a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
"""A few hundred bytes that stand for 9 to the power of 12 values."""
LITTLE = {"data": {"train_per_class": 20}, "train": {"epochs": 18, "milestones": [11, 14], "nesterov": False}}
MUCH = {"data": {"train_per_class": 80}, "train": {"epochs": 36, "milestones": [11, 14], "dot_delta": 0.075}}
"""params.yaml of two budgets."""

FIGURES = {
    "sources": {"paper": {"title": "a paper", "file": "its table", "protocol": "last epoch"}},
    "cifar100": [
        {"teacher": "resnet56", "student": "resnet20", "method": "kd", "source": "paper", **figure}
        for figure in (
            {"levels": [1], "stand": False, "top1": 70.66},
            {"levels": [1], "stand": True, "top1": 71.43},
            {"levels": [1], "stand": False, "top1": 71.5, "optimizer": "dot"},
        )
    ],
    "imagenet": [],
}


class Repository:
    """A project's tables, and their revisions."""

    def __init__(self, folder):
        self.folder = folder
        self.git("init", "-q")

    def git(self, *arguments):
        who = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        command = ["git", *who, *arguments]
        return subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True).stdout.strip()

    def write(self, rows, *, data="cifar100", headline=None, first_seed=0, params=None, epochs=None, sources=None):
        """Rows: (method, scale, stand) -> accuracies by seed; headline: the row that metrics.json calls so."""
        folder = self.folder / "tables"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for kind in ("md", "tex", "csv"):
            (folder / f"{data}.{kind}").write_text("x\n")
        cells = [
            {"name": "any", "pair": PAIR, "method": method, "seed": first_seed + i,
             "scale": scale and str(scale), "stand": stand,
             "top1": top1, "top1_best": top1 + 1, **({"epochs": epochs} if epochs else {}),
             **({"recipe_sources": sources} if sources else {})}
            for (method, scale, stand), values in rows.items() for i, top1 in enumerate(values)
        ]  # fmt: skip
        pd.DataFrame(cells).to_csv(folder / "cells.csv", index=False)
        metrics = {method: {"plain": 1.0, "headline": headline and 2.0} for method, _, _ in rows}
        (folder / "metrics.json").write_text(json.dumps({PAIR: metrics}))
        yamlfile.write(self.folder / "params.yaml", params or {"train": {"optimizer": "sgd"}})

    def commit(self, rows, **options):
        self.write(rows, **options)
        self.git("add", "-A")
        self.git("commit", "-qm", "test", "--allow-empty")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yamlfile.write(tmp_path / "data/published.yaml", FIGURES)
    return Repository(tmp_path)


def lines(old, new="workspace", accuracy="top1"):
    return compare.compare(*revisions.load(old, new, accuracy)).lines


class TestTablesOlderThanSettings:
    """Accuracies of old settings would be told for those of the new ones."""

    ENTRY = "  {}:\n    cmd: x\n    deps:\n    - path: {}\n      hash: md5\n      md5: {}\n"

    def record(self, repository):
        """Write what DVC does after the tables of these settings."""
        card = repository.folder / "cards/tables.yaml"
        card.parent.mkdir(exist_ok=True)
        card.write_text("a: 1\n")
        read = {"plan": "params.yaml", "tables": "cards/tables.yaml"}
        sums = {file: hashlib.md5((repository.folder / file).read_bytes()).hexdigest() for file in read.values()}
        entries = [self.ENTRY.format(stage, file, sums[file]) for stage, file in read.items()]
        (repository.folder / "dvc.lock").write_text("".join(["schema: '2.0'\nstages:\n", *entries]))

    def test_here(self, repository):
        repository.commit({PLAIN: NOISY})
        self.record(repository)
        assert [line.verdict for line in lines("HEAD")] == ["equal"]
        yamlfile.write(repository.folder / "params.yaml", {"train": {"optimizer": "sgd", "lr": 0.5}})
        said = "workspace: params.yaml has changed since its tables were made; run 'dvc repro'"
        with pytest.raises(UserError, match=re.escape(said)):
            lines("HEAD")

    def test_here_after_a_plan_alone(self, repository):
        repository.commit({PLAIN: NOISY})
        self.record(repository)
        (repository.folder / "cards/tables.yaml").write_text("a: 2\n")
        with pytest.raises(
            UserError, match=r"workspace: cards/tables\.yaml, which the plan has written from params\.yaml"
        ):
            lines("HEAD")

    def test_at_a_commit(self, repository):
        repository.write({PLAIN: NOISY})
        self.record(repository)
        yamlfile.write(repository.folder / "params.yaml", {"train": {"optimizer": "sgd", "lr": 0.5}})
        repository.git("add", "-A")
        repository.git("commit", "-qm", "test")
        with pytest.raises(
            UserError, match=r"HEAD: params\.yaml has changed since its tables were made; run 'dvc repro'"
        ):
            lines("HEAD", "HEAD~0")


class TestVerdicts:
    def test_same_seeds_are_paired(self, repository):
        repository.commit({PLAIN: NOISY, ("vanilla", None, None): NOISY})
        repository.write({PLAIN: BETTER, ("vanilla", None, None): WORSE})
        baseline, kd = lines("HEAD")
        assert (kd.verdict, baseline.verdict) == ("better", "worse")
        assert kd.test == baseline.test == "paired t-test"
        p = [stats.ttest_rel(after, NOISY).pvalue for after in (WORSE, BETTER)]
        assert [baseline.p, kd.p] == pytest.approx(significance.holm(p))
        assert (kd.old, kd.new, kd.difference) == pytest.approx((70.1, 72.1, 2.0))
        assert (kd.n_old, kd.n_new) == (4, 4)

    def test_not_told_from_noise(self, repository):
        other = (70.2, 69.9, 70.3, 70.1)
        repository.commit({PLAIN: NOISY})
        repository.write({PLAIN: other})
        found = compare.compare(*revisions.load("HEAD", "workspace", "top1"))
        (line,) = found.lines
        assert (line.verdict, line.as_record()["beyond_noise"]) == ("not told from noise", False)
        interval = stats.ttest_rel(other, NOISY).confidence_interval(0.95)
        assert line.margin == pytest.approx((interval.high - interval.low) / 2)
        assert "0 equal, 1 not told from noise, 0 unknown; 1 of 1 line inconclusive; " in found.summary

    def test_holm_counts_all_lines(self, repository):
        """A p of 0.03 on its own is no finding among ten lines without one."""
        small = (70.05, 70.75, 70.1, 70.7)
        assert 0.02 < stats.ttest_rel(small, NOISY).pvalue < 0.05
        others = {("kd", 1, True): NOISY, ("kd", 2, False): NOISY, ("kd", 2, True): NOISY}
        repository.commit({PLAIN: NOISY})
        repository.write({PLAIN: small})
        assert [line.verdict for line in lines("HEAD")] == ["better"]
        repository.commit({PLAIN: NOISY, **others})
        repository.write({PLAIN: small, **dict.fromkeys(others, (70.2, 69.9, 70.3, 70.1))})
        assert {line.verdict for line in lines("HEAD")} == {"not told from noise"}

    @pytest.mark.parametrize(("before", "first_seed"), [(NOISY, 4), (NOISY[:3], 0)])
    def test_other_or_more_seeds_are_not_paired(self, repository, before, first_seed):
        repository.commit({PLAIN: before})
        repository.write({PLAIN: BETTER}, first_seed=first_seed)
        (line,) = lines("HEAD")
        assert (line.verdict, line.test, line.n_old, line.n_new) == ("better", "Welch's t-test", len(before), 4)
        welch = stats.ttest_ind(BETTER, before, equal_var=False)
        assert line.p == pytest.approx(welch.pvalue)
        assert line.difference + line.margin == pytest.approx(welch.confidence_interval(0.95).high)

    @pytest.mark.parametrize(("before", "after"), [((70.0,), (75.0,)), ((70.0,), NOISY), (NOISY, (70.0,))])
    def test_one_seed_is_never_judged(self, repository, before, after):
        repository.commit({PLAIN: before})
        repository.write({PLAIN: after})
        (line,) = lines("HEAD")
        assert (line.verdict, line.test, line.p) == ("unknown", None, None)

    @pytest.mark.parametrize("values", [NOISY, (70.0,), (70.0, 70.0)])
    @pytest.mark.parametrize("first_seed", [0, 4])
    def test_nothing_changed(self, repository, values, first_seed):
        repository.commit({PLAIN: values})
        repository.write({PLAIN: values}, first_seed=first_seed)
        found = compare.compare(*revisions.load("HEAD", "workspace", "top1"))
        (line,) = found.lines
        assert (line.verdict, line.difference, line.test, line.p) == ("equal", 0, None, None)
        assert line.as_record()["beyond_noise"] is False
        assert "inconclusive" not in found.summary

    @pytest.mark.parametrize("first_seed", [0, 4])
    def test_seeds_that_tell_nothing(self, repository, first_seed):
        repository.commit({PLAIN: (70.0, 70.0)})
        repository.write({PLAIN: (71.0, 71.0)}, first_seed=first_seed)
        (line,) = lines("HEAD")
        assert line.verdict == "unknown"

    def test_best_epoch(self, repository):
        repository.commit({PLAIN: NOISY})
        (line,) = lines("HEAD", accuracy="top1_best")
        assert line.old == pytest.approx(71.1)


class TestRows:
    def test_headline_of_other_matrices(self, repository):
        """scales [1] against [1,4]: plain beside plain, headline beside headline."""
        repository.commit({PLAIN: NOISY}, headline=PLAIN)
        repository.write({PLAIN: NOISY, SDD: BETTER, SDD_STAND: BETTER}, headline=SDD_STAND)
        plain, headline = lines("HEAD")
        assert (plain.what, plain.row, plain.new_row, plain.verdict) == ("plain", "KD", "KD", "equal")
        assert (headline.what, headline.row, headline.new_row) == ("headline", "KD", "KD + SDD [1,2,4] + stand")
        assert headline.verdict == "better"
        told = compare.compare(*revisions.load("HEAD", "workspace", "top1")).summary
        assert "headline: the method with the highest M of its matrix" in told

    def test_headline_that_is_not_whole(self, repository):
        repository.commit({PLAIN: NOISY}, headline=PLAIN)
        repository.write({PLAIN: NOISY, SDD: BETTER}, headline=None)
        assert [line.what for line in lines("HEAD")] == ["plain"]

    def test_same_matrices(self, repository):
        repository.commit({PLAIN: NOISY, SDD: NOISY, SDD_STAND: NOISY}, headline=SDD_STAND)
        assert [line.what for line in lines("HEAD")] == ["plain", "row", "headline"]

    def test_rows_of_one_side_are_counted(self, repository):
        repository.commit({PLAIN: NOISY, ("at", None, None): NOISY})
        repository.write({PLAIN: NOISY, SDD: NOISY})
        summary = compare.compare(*revisions.load("HEAD", "workspace", "top1")).summary
        assert "rows of one side alone: 1 of HEAD, 1 of workspace" in summary

    def test_nothing_in_common(self, repository):
        repository.commit({PLAIN: NOISY})
        repository.write({("dkd", 1, False): NOISY})
        with pytest.raises(UserError, match=f"HEAD has kd of {PAIR}, workspace dkd of {PAIR}: none in common"):
            lines("HEAD")

    def test_as_stage_tables_writes_them(self, repository):
        for gain in (0.0, 3.0):
            results = made_up.matrix(pairs=[PAIR], seeds=(0, 1, 2, 3), gain=gain)
            repository.write({})
            tables.write(results, repository.folder / "tables")
            repository.git("add", "-A")
            repository.git("commit", "-qm", f"gain {gain}")
        found = lines("HEAD~1", "HEAD")
        assert len(found) == 13
        assert {line.row: round(line.difference, 2) for line in found if line.method == "kd"} == {
            "KD": 0, "KD + SDD [1,2]": 3, "KD + SDD [1,2,4]": 3, "KD + stand": 3, "KD + SDD [1,2] + stand": 6,
            "KD + SDD [1,2,4] + stand": 6,
        }  # fmt: skip


class TestVariants:
    def write(self, repository, temperature, *, commit):
        variants = {"t2": {"kd": {"temperature": temperature}}}
        made = made_up.matrix(pairs=[PAIR], seeds=(0, 1, 2, 3), variants=variants)
        repository.write({}, params={"variants": {"base": {}, **variants}, "train": {"optimizer": "sgd"}})
        tables.write(made, repository.folder / "tables")
        if commit:
            repository.git("add", "-A")
            repository.git("commit", "-qm", "test")

    def test_they_are_rows_of_their_own(self, repository):
        self.write(repository, 2, commit=True)
        found = {line.row: line for line in lines("HEAD")}
        assert len(found) == 13 + 6
        assert (found["KD, T=2"].what, found["KD, T=2"].verdict) == ("row", "equal")
        assert found["KD"].what == "plain"
        assert found["KD + SDD [1,2,4] + stand"].what == "headline"

    def test_other_values_under_one_name_are_said(self, repository):
        self.write(repository, 2, commit=True)
        self.write(repository, 8, commit=False)
        found = compare.compare(*revisions.load("HEAD", "workspace", "top1"))
        changed = next(line for line in found.lines if line.row == "KD, T=2")
        assert changed.new_row == "KD, T=8"
        assert "KD, T=2 -> KD, T=8" in found.markdown()
        assert found.differs == "differs: variants.t2.kd.temperature 2 -> 8"

    def test_a_table_older_than_variants_is_base(self, repository):
        repository.commit({("vanilla", None, None): NOISY, PLAIN: NOISY, SDD_STAND: NOISY}, headline=SDD_STAND)
        self.write(repository, 2, commit=False)
        found = compare.compare(*revisions.load("HEAD", "workspace", "top1"))
        assert [line.row for line in found.lines] == ["Student", "KD", "KD + SDD [1,2,4] + stand"]
        assert "16 of workspace" in found.summary

    def test_names_that_look_like_gaps_or_numbers(self, repository):
        for name in ("NA", "1", "None"):
            made = made_up.matrix(pairs=[PAIR], seeds=(0,), variants={name: {"kd": {"temperature": 2}}})
            repository.write({})
            tables.write(made, repository.folder / "tables")
            (side, _) = revisions.load("workspace", "workspace", "top1")
            assert {row.variant for _, row in side.rows} == {"base", name}

    def test_published_figures_are_of_base(self, repository):
        self.write(repository, 2, commit=False)
        assert {line.row for line in lines("published")} == {"KD", "KD + stand"}


class TestPublished:
    def test_no_figure_is_compared_with_a_recipe_of_ones_own(self, repository, capsys):
        sources = "ce_weight: mdistiller:cfg.py; temperature: {}"
        repository.write({PLAIN: (70.5, 70.9, 70.4)}, sources=sources.format("mdistiller:cfg.py"))
        assert len(lines("workspace", "published")) == 1
        assert not capsys.readouterr().err
        repository.write({PLAIN: (70.5, 70.9, 70.4)}, sources=sources.format("params.yaml"))
        with pytest.raises(UserError, match="workspace has kd of resnet56-resnet20, published no experiment"):
            lines("workspace", "published")
        said = "note: no figure is compared with recipes that params.yaml changes, those of KD\n"
        assert capsys.readouterr().err == said

    def test_interval(self, repository):
        repository.write({PLAIN: (70.5, 70.9, 70.4)})
        (line,) = lines("workspace", "published")
        assert (line.new, line.n_old, line.n_new) == (70.66, 3, None)
        assert (line.test, line.verdict) == ("prediction interval", "not told from noise")
        assert line.margin == pytest.approx(significance.noise((70.5, 70.9, 70.4)))
        repository.write({PLAIN: (60.5, 60.9, 60.4)})
        assert [line.verdict for line in lines("workspace", "published")] == ["better"]
        assert [line.verdict for line in lines("published", "workspace")] == ["worse"]

    def test_one_seed(self, repository):
        repository.write({PLAIN: (60.0,)})
        assert [line.verdict for line in lines("published")] == ["unknown"]
        repository.write({PLAIN: (70.66,)})
        assert [line.verdict for line in lines("published")] == ["equal"]

    def test_epochs_of_cells(self, repository):
        """The table as it is written has a column that no publication says anything of."""
        repository.write({PLAIN: NOISY}, epochs=240)
        assert [line.old for line in lines("published")] == [70.66]

    def test_mean_of_runs(self, repository):
        sources = {"paper": {**FIGURES["sources"]["paper"], "runs": 3}}
        yamlfile.write(repository.folder / "data/published.yaml", {**FIGURES, "sources": sources})
        repository.write({PLAIN: NOISY})
        assert [line.margin for line in lines("published")] == [significance.noise(NOISY, 3)]

    def test_doubt(self, repository, capsys):
        figures = [{**FIGURES["cifar100"][0], "doubt": "logs end at 70.1"}, *FIGURES["cifar100"][1:]]
        yamlfile.write(repository.folder / "data/published.yaml", {**FIGURES, "cifar100": figures})
        repository.write({PLAIN: NOISY, ("kd", 1, True): NOISY})
        assert [line.as_record()["doubt"] for line in lines("published")] == ["logs end at 70.1", None]
        for sides in (("published", "workspace"), ("workspace", "published")):
            main(*sides)
            table, below = capsys.readouterr().out.split("\n\n")
            assert (table.count(" 70.66† "), table.count("†")) == (1, 1)
            assert below.startswith(f"† KD, {PAIR}, published 70.66: logs end at 70.1.\n{sides[0]} -> ")

    def test_one_doubt_of_several_figures_is_told_once(self, repository, capsys):
        sources = {"paper": {**FIGURES["sources"]["paper"], "doubt": "read second hand"}}
        yamlfile.write(repository.folder / "data/published.yaml", {**FIGURES, "sources": sources})
        repository.write({PLAIN: NOISY, ("kd", 1, True): NOISY})
        main("published", "workspace")
        table, below = capsys.readouterr().out.split("\n\n")
        assert table.count("†") == 2
        assert below.count("†") == below.count("read second hand") == 1

    def test_part_of_a_data_set(self, repository):
        repository.write({PLAIN: NOISY}, params={"data": {"subset": True}})
        with pytest.raises(UserError, match="workspace: is of a part of cifar100, of which nothing was published"):
            lines("published")

    def test_standardised_alone_was_never_published(self, repository):
        both = {PLAIN: NOISY, ("kd", 1, True): NOISY}
        repository.write(both)
        assert len(lines("published")) == 2
        repository.write(both, params={"stand_recipe": "matched"})
        assert len(lines("published")) == 1

    def test_optimizer(self, repository):
        repository.write({PLAIN: NOISY}, params={"train": {"optimizer": "dot"}})
        assert [line.old for line in lines("published")] == [71.5]

    def test_none_of_the_data_set(self, repository):
        repository.write({PLAIN: NOISY}, data="digits")
        with pytest.raises(
            UserError, match=r"no figures of digits, only of cifar100, imagenet; compare with a revision"
        ):
            lines("published")

    def test_both_sides(self, repository):
        with pytest.raises(UserError, match="one side must have been measured"):
            lines("published", "published")


class TestRevisions:
    def test_experiment(self, repository):
        base = repository.commit({PLAIN: NOISY})
        tip = repository.commit({PLAIN: BETTER})
        repository.git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/warm-kiwi", tip)
        repository.git("reset", "-q", "--hard", base)
        assert [line.verdict for line in lines("HEAD", "warm-kiwi")] == ["better"]

    def test_experiments_of_one_name(self, repository):
        base = repository.commit({PLAIN: NOISY})
        tip = repository.commit({PLAIN: BETTER})
        for commit in (base, tip):
            repository.git("update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/warm-kiwi", tip)
        assert [line.verdict for line in lines(base, "warm-kiwi")] == ["better"]
        repository.commit({PLAIN: WORSE})
        with pytest.raises(UserError, match="warm-kiwi: several experiments have this name; name one in full: refs/"):
            lines("warm-kiwi")

    def test_below_a_repository(self, repository, monkeypatch):
        """A project may be a folder of a larger repository."""
        repository.commit({PLAIN: NOISY})
        (repository.folder / "project").mkdir()
        for name in ("tables", "params.yaml", "data"):
            repository.git("mv", name, f"project/{name}")
        repository.git("commit", "-qm", "moved")
        monkeypatch.chdir(repository.folder / "project")
        assert len(lines("HEAD")) == 1
        with pytest.raises(UserError, match="HEAD~1: has no tables"):
            lines("HEAD~1")

    def test_below_the_project(self, repository, monkeypatch):
        repository.commit({PLAIN: NOISY})
        monkeypatch.chdir(repository.folder / "data")
        for name in ("workspace", "HEAD"):
            with pytest.raises(
                UserError, match=rf"{name}: no tables, and .*/data has no params.yaml: run it in the pro"
            ):
                lines(name, "published")

    @pytest.mark.parametrize("name", [":/test", ":/!-other", ":params.yaml", ":"])
    def test_colon(self, repository, name):
        repository.commit({PLAIN: NOISY})
        with pytest.raises(UserError, match=f"{name}: begins with ':', which names no revision; name a commit"):
            lines(name)

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("[1]", r"must hold keys and values \(key: value\), not a list"),
            ("x", "not text"),
            ("train: 5", "train must"),
            ("{", "not valid"),
            ("train: {lr: 2001-99-99}", "line 1: is not valid YAML: '2001-99-99' is no timestamp"),
            ("train: &a [*a]", "line 1: is not valid YAML: the alias"),
            (LAUGHS, "line 3: is not valid YAML: the alias"),
            (b"\xff", r"is not UTF-8 text \(byte 0\)"),
        ],
    )
    def test_params_that_are_none(self, repository, text, match):
        repository.commit({PLAIN: NOISY})
        (repository.folder / "params.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        repository.git("commit", "-qam", "damaged")
        for sides in (("HEAD~1", "HEAD"), ("HEAD", "published")):
            with pytest.raises(UserError, match=f"HEAD: params.yaml.*{match}"):
                lines(*sides)

    @pytest.mark.parametrize("name", ["nonsense", "HEAD:tables", "HEAD~9", ""])
    def test_unknown(self, repository, name):
        repository.commit({PLAIN: NOISY})
        with pytest.raises(UserError, match=r"is no revision and no experiment here .*dvc exp list"):
            lines(name)

    def test_no_repository(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        with pytest.raises(UserError, match="HEAD: revisions need git"):
            lines("HEAD")

    def test_no_tables(self, repository):
        repository.git("commit", "-qm", "empty", "--allow-empty")
        yamlfile.write(repository.folder / "params.yaml", {})
        with pytest.raises(UserError, match="HEAD: has no tables; run 'dvc repro' there and commit tables/, or name"):
            lines("HEAD")
        repository.commit({PLAIN: NOISY})
        shutil.rmtree(repository.folder / "tables")
        with pytest.raises(UserError, match="workspace: has no tables; run 'dvc repro'"):
            lines("HEAD")

    def test_data_sets_differ(self, repository):
        repository.commit({PLAIN: NOISY})
        repository.write({PLAIN: NOISY}, data="digits")
        with pytest.raises(UserError, match=r"HEAD has results on cifar100, workspace on digits.*git log"):
            lines("HEAD")

    @pytest.mark.parametrize(
        ("old", "new", "match"),
        [
            (",top1,", ",top5,", "lacks top1"),
            ("70.0", "oops", "has cells without top1"),
            (",1,", ",0,", "scale 0 is"),
            ("70.2", "70.2,1,2,3,4,5,6,7,8", "is no table"),
        ],
    )
    def test_damaged(self, repository, old, new, match):
        repository.commit({PLAIN: NOISY})
        file = repository.folder / "tables/cells.csv"
        file.write_text(file.read_text().replace(old, new))
        with pytest.raises(UserError, match=match):
            lines("HEAD")

    def test_empty(self, repository):
        repository.commit({})
        with pytest.raises(UserError, match="or an empty one"):
            lines("HEAD")


class TestRegressions:
    def check(self, repository, before, after, tolerance=None):
        repository.commit(before)
        repository.write(after)
        return compare.check_regressions(lines("HEAD"), tolerance)

    def test_beyond_noise(self, repository):
        with pytest.raises(
            RunError, match=rf"1 line of 1 got worse, 0 inconclusive:\n- {PAIR}, KD: -2.02 beyond noise"
        ):
            self.check(repository, {PLAIN: NOISY}, {PLAIN: WORSE})

    def test_none(self, repository):
        assert self.check(repository, {PLAIN: NOISY}, {PLAIN: BETTER}, 0.0) == "no regression found in 1 line"

    def test_unknown_noise_fails_only_with_a_tolerance(self, repository):
        rows = {PLAIN: (70.0,)}, {PLAIN: (60.0,)}
        found = "no regression found in 1 line, 1 inconclusive: 0 not told from noise, 1 unknown"
        assert self.check(repository, *rows) == f"{found} (see --tolerance)"
        assert self.check(repository, *rows, 10.5) == found
        with pytest.raises(RunError, match=r"-10\.00 with unknown noise, --tolerance 9\.5"):
            self.check(repository, *rows, 9.5)

    def test_inconclusive_is_said(self, repository):
        other = (70.2, 69.9, 70.3, 70.1)
        found = self.check(repository, {PLAIN: NOISY}, {PLAIN: other})
        assert found == "no regression found in 1 line, 1 inconclusive: 1 not told from noise, 0 unknown"
        before, after = {PLAIN: NOISY, SDD: NOISY, SDD_STAND: (70.0,)}, {PLAIN: WORSE, SDD: other, SDD_STAND: (60.0,)}
        for tolerance, told in ((None, "1 line of 3 got worse, 2 inc"), (1.0, "2 lines of 3 got worse, 1 inc")):
            with pytest.raises(RunError, match=told):
                self.check(repository, before, after, tolerance)


class TestBudgets:
    def differs(self, old="HEAD", new="workspace"):
        return compare.compare(*revisions.load(old, new, "top1")).differs

    def test_params(self, repository):
        repository.commit({PLAIN: NOISY}, params=LITTLE)
        assert self.differs() == ""
        repository.write({PLAIN: NOISY}, params=MUCH)
        assert self.differs() == (
            "differs: data.train_per_class 20 -> 80, train.epochs 18 -> 36, train.nesterov false -> unset, "
            "train.dot_delta unset -> 0.075"
        )

    def test_cells_were_trained_otherwise(self, repository):
        """params.yaml may have changed since, or stayed where a file of cells was brought from elsewhere."""
        repository.commit({PLAIN: NOISY}, params=LITTLE, epochs=18)
        repository.write({PLAIN: NOISY}, params=LITTLE, epochs=240)
        assert self.differs() == "differs: train.epochs 18 -> 240"
        repository.write({PLAIN: NOISY}, params={**LITTLE, "train": {**LITTLE["train"], "epochs": 36}}, epochs=18)
        assert self.differs() == ""

    def test_what_is_not_known(self, repository):
        repository.commit({PLAIN: NOISY}, params=LITTLE)
        (repository.folder / "params.yaml").unlink()
        assert self.differs() == ""
        repository.write({PLAIN: NOISY}, params=LITTLE, epochs=18)
        assert self.differs("workspace", "published") == ""

    def test_another_teacher(self, repository):
        """Of pairs on both sides, whether params.yaml asks for it or another one was had (otherwise: train)."""
        name = PAIR.partition("-")[0]
        teachers = {name: {"source": "a.pth", "mean": [0.5] * 3}, "unused": {"source": "b.pth"}}
        repository.commit({PLAIN: NOISY}, params={**LITTLE, "teachers": teachers})
        assert self.differs() == ""
        others = {name: {"source": "a.pth"}, "unused": {"source": "c.pth"}}
        repository.write({PLAIN: NOISY}, params={**LITTLE, "teachers": others})
        assert self.differs() == f"differs: teachers.{name}.mean [0.5, 0.5, 0.5] -> unset"
        metrics = repository.folder / "tables/metrics.json"
        content = json.loads(metrics.read_text())
        metrics.write_text(json.dumps({**content, "teachers": {name: {"top1": 66.0, "origin": "published"}}}))
        assert self.differs() == f"differs: teachers.{name}.mean [0.5, 0.5, 0.5] -> unset"
        repository.git("add", "-A")
        repository.git("commit", "-qm", "adopted")
        metrics.write_text(json.dumps({**content, "teachers": {name: {"top1": 1.03, "origin": "trained here"}}}))
        assert self.differs() == (
            f"differs: teachers.{name}.top1 66.0 -> 1.03, teachers.{name}.origin published -> trained here"
        )

    def test_other_images_under_one_name(self, repository):
        """dvc.lock knows them; settings and names are the same."""
        lock = "stages:\n  data:\n    outs:\n    - path: data/cifar100\n      hash: md5\n      md5: {}.dir\n"
        (repository.folder / "dvc.lock").write_text(lock.format("0" * 32))
        repository.commit({PLAIN: NOISY}, params=LITTLE)
        assert self.differs() == ""
        (repository.folder / "dvc.lock").write_text(lock.format("1" * 32))
        assert self.differs() == "differs: data/cifar100 holds other images or labels"

    def test_a_method_of_other_values(self, repository):
        repository.commit({PLAIN: NOISY}, params=LITTLE)
        repository.write({PLAIN: NOISY}, params={**LITTLE, "methods_config": {"kd": {"temperature": 2}}})
        assert self.differs() == "differs: methods_config.kd.temperature unset -> 2"

    def test_said(self, repository, capsys):
        repository.commit({PLAIN: NOISY}, params=LITTLE, epochs=18)
        repository.write({PLAIN: NOISY}, params=LITTLE, epochs=36)
        main("HEAD")
        assert capsys.readouterr().out.endswith("\ndiffers: train.epochs 18 -> 36\n")
        main("HEAD", "--json")
        printed = capsys.readouterr()
        assert printed.err.endswith("\ndiffers: train.epochs 18 -> 36\n")
        assert "differs" not in printed.out


class TestScript:
    def test_markdown(self, repository, capsys):
        repository.commit({PLAIN: NOISY})
        repository.write({PLAIN: BETTER})
        main("HEAD", "HEAD")
        assert "| HEAD   | HEAD   |" in capsys.readouterr().out
        main("HEAD")
        table, summary = capsys.readouterr().out.split("\n\n")
        assert [cell.strip() for cell in table.splitlines()[2].split("|")[1:-1]] == [
            PAIR, "KD", "plain", "70.10", "72.10", "+2.00", "0.13", "4 / 4", "1.9e-05", "better",
        ]  # fmt: skip
        assert summary.startswith(
            "HEAD -> workspace, cifar100: 1 line: 1 better, 0 worse, 0 equal, 0 not told from noise, "
        )

    def test_json(self, repository, capsys):
        repository.commit({PLAIN: NOISY})
        repository.write({PLAIN: (70.0,)})
        main("HEAD", "--json")
        printed = capsys.readouterr()
        assert json.loads(printed.out) == [{
            "pair": PAIR, "method": "kd", "what": "plain", "row": "KD", "new_row": "KD", "old": 70.1, "new": 70.0,
            "difference": -0.1, "margin": None, "n_old": 4, "n_new": 1, "test": None, "p": None, "verdict": "unknown",
            "doubt": None, "beyond_noise": None,
        }]  # fmt: skip
        assert "1 unknown" in printed.err

    @pytest.mark.parametrize("options", ["--fail-on-regression --tolerance=-1", "--fail-on-regression --tolerance=nan",
                                         "--tolerance=1"])  # fmt: skip
    def test_wrong_tolerance(self, repository, options):
        with pytest.raises(UserError, match="belongs to --fail-on-regression, and must be 0 or more"):
            main("HEAD", *options.split())

    @pytest.mark.parametrize(
        ("arguments", "code", "said"),
        [
            (["HEAD"], 0, ""),
            (["HEAD", "--fail-on-regression"], 1, "error: 1 line of 1 got worse"),
            (["nonsense", "--fail-on-regression"], 2, "error: nonsense: is no revision"),
            (["--no-option"], 2, "usage: python -m stages.compare"),
        ],
    )
    def test_exit_codes(self, repository, monkeypatch, capsys, *, arguments, code, said):
        repository.commit({PLAIN: NOISY})
        repository.write({PLAIN: WORSE})
        monkeypatch.setattr(sys, "argv", ["compare", *arguments])
        try:
            ended = run(main)
        except SystemExit as error:
            ended = error.code
        assert (ended or 0) == code
        assert capsys.readouterr().err.startswith(said)


class TestStages:
    """How any stage ends (`stages.run`)."""

    @staticmethod
    def end(code, **options):
        program = f"from stages import run\n{code}\nrun(main)"
        return subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, check=False, stderr=subprocess.PIPE, text=True, **options
        )

    @pytest.mark.parametrize("size", [10, 1_000_000])
    def test_output_that_nobody_reads(self, size):
        read, write = os.pipe()
        os.close(read)
        ended = self.end(f"def main(): print('x' * {size})", stdout=write)
        os.close(write)
        assert (ended.returncode, ended.stderr) == (141, "")

    @pytest.mark.parametrize("error", ["KeyError('epochs')", "BrokenPipeError('of a worker')"])
    def test_what_nobody_foresaw(self, error):
        """Not 1, which a check takes for its answer."""
        ended = self.end(f"def main(): raise {error}", stdout=subprocess.PIPE)
        assert ended.returncode == 70
        assert "Traceback" in ended.stderr
        assert error.split("(")[0] in ended.stderr
