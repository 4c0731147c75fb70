"""The page of a run: what it says and shows, that it fetches nothing, and that names stay text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_runs import HOSTILE, eval_line, make_run, record, resumed_line, train_line

from warmup import report
from warmup.__main__ import main
from warmup.config.recipe import Recipe
from warmup.plan import Topology
from warmup.planning import make_plan
from warmup.report import figures, tables


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    @property
    def figures(self) -> list[str | None]:
        return [value for name, value in self.attributes if name == "aria-label"]


def page_of(folder: Path) -> Page:
    return Page(report.write_page([report.load(folder)], folder / "report.html"))


def assert_self_contained(page: Page) -> None:
    assert not {"script", "iframe", "img", "object", "embed", "form", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    addresses = [value for name, value in page.attributes if name in ("href", "xlink:href", "src", "action")]
    assert all(address == "data:," or (address or "").startswith("#") for address in addresses)
    styles = [value or "" for name, value in page.attributes if name == "style"]
    assert not [style for style in styles if re.search(r"url\((?!['\"]?#)", style)]


def test_a_run_that_is_done(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run"))
    assert_self_contained(page)
    shown = ["loss", "learning rate", "gradient norm", "throughput", "time", "metrics", "confusion"]
    assert page.figures == shown
    for text in (
        "done",
        "40 of 40",
        "1,280",
        "0.75",
        "By class",
        "text of yes",
        "3.25",
        "train.py --seed 1",
        "2 ranks",
    ):
        assert text in page.texts, text
    assert "yes" in page.texts and "0.333" in page.texts  # the table by class
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))  # figures do not share clip paths


def test_resumptions_skipped_steps_and_spikes_are_told_and_marked(tmp_path: Path) -> None:
    events = [
        resumed_line(10),
        {"kind": "skipped", "step": 15, "grad_norm": "inf"},
        {"kind": "spike", "step": 18, "loss": 9.5, "score": 12.0},
        resumed_line(20, world_size=1),
        {"kind": "left out", "step": 25, "rows": ["a.csv, line 3: no text"]},
        {"kind": "checkpoint", "step": 30, "seconds_waited": 0.5},
    ]
    folder = make_run(tmp_path / "run", [*map(train_line, range(1, 41)), *events])
    assert tables.event_rows(report.load(folder)) == [
        ("10", "resumed"),
        ("15", "a step was skipped: its gradient norm was inf"),
        ("18", "the loss jumped to 9.5, score 12"),
        ("20", "resumed, changed: ranks 2 \u2192 1"),
        ("25", "1 unusable rows were left out: a.csv, line 3: no text"),
    ]
    drawn = figures.run_figures(report.load(folder))
    labels = {
        name: set(figure.axes[0].get_legend_handles_labels()[1]) for name, figure in drawn.items() if name != "time"
    }
    assert labels["loss"] >= {"resumed", "resumed, changed", "spike"}
    assert labels["gradient norm"] >= {"resumed", "resumed, changed", "skipped", "clipped to"}
    vertical = [line.get_xdata()[0] for line in drawn["loss"].axes[0].lines if line.get_linestyle() == ":"]
    assert vertical == [10, 20]
    assert_self_contained(page_of(folder))


def test_the_rate_is_drawn_where_the_plan_has_it(tmp_path: Path) -> None:
    run = report.load(make_run(tmp_path / "run"))
    planned = figures.planned_lr(run)
    assert planned is not None and run.plan is not None
    assert planned[0] == list(range(1, 41)) and planned[1] == [run.plan.lr_at_step(step) for step in range(40)]


def test_a_batch_that_grows_is_drawn_with_what_was_trained_on(tmp_path: Path) -> None:
    """From 8 to 32 over 48 samples: steps of 8, 12, 18, 27 and then 32."""
    topology = Topology(2, 16, batch_warmup="48 samples", batch_start_size=8)
    plan = make_plan(Recipe(lr=1e-3, reference_batch_size=32, duration="4 steps"), topology)
    positions = (8, 20, 38, 65, 97, 129)
    lines = [train_line(step, samples=samples) for step, samples in enumerate(positions, 1)]
    run = report.load(make_run(tmp_path / "run", lines, plan=plan.to_dict()))
    planned, trained = figures.run_figures(run)["batch"].axes[0].lines
    assert [list(planned.get_xdata()), list(planned.get_ydata())] == [[1, 2, 3, 4, 5, 6], [8, 12, 18, 27, 32, 32]]
    assert [list(trained.get_xdata()), list(trained.get_ydata())] == [[2, 3, 4, 5, 6], [12, 18, 27, 32, 32]]
    assert "batch" in page_of(run.folder).figures
    assert "batch" not in figures.run_figures(report.load(make_run(tmp_path / "other")))


def test_the_noise_scale_is_drawn_with_its_interval(tmp_path: Path) -> None:
    """Not yet known at step 1, without an upper end at steps 2 and 3, of which the latter only has a lower one."""
    found = [(None, None, None), (30.0, 20.0, None), (None, 25.0, None), (40.0, 30.0, 60.0)]
    names = ("noise_scale", "noise_scale_low", "noise_scale_high")
    lines = [train_line(step, **dict(zip(names, values, strict=True))) for step, values in enumerate(found, 1)]
    axes = figures.run_figures(report.load(make_run(tmp_path / "run", lines)))["noise scale"].axes[0]
    corners = {tuple(point) for path in axes.collections[0].get_paths() for point in path.vertices}
    assert corners == {(2, 20), (2, 80), (3, 25), (3, 80), (4, 30), (4, 60)} and axes.get_ylim() == (0, 80)
    assert [list(axes.lines[0].get_xdata()), list(axes.lines[0].get_ydata())] == [[2, 4], [30, 40]]
    unknown = make_run(tmp_path / "unknown", [train_line(1, **dict.fromkeys(names))])
    assert "noise scale" not in figures.run_figures(report.load(unknown))


def test_where_the_time_went(tmp_path: Path) -> None:
    """40 steps in 4 s, at 320 samples per second: 4 s, of which a tenth waits for data and a fifth for gradients."""
    lines = [*map(train_line, range(1, 41)), {"kind": "checkpoint", "step": 40, "seconds_waited": 0.5}]
    lines = [line | {"seconds": line["step"] / 10 + 1.5} if line["kind"] == "train" else line for line in lines]
    shares = figures.time_shares(report.load(make_run(tmp_path / "run", lines)))
    expected = {"computing": 2.8, "waiting for data": 0.4, "waiting for gradients": 0.8, "saving": 0.5}
    assert shares == pytest.approx(expected | {"evaluation and start": 1.0})


@pytest.mark.parametrize(("saving", "text"), [(0.0, "0.0%"), (0.001, "< 0.1%"), (0.5, "10.0%")])
def test_shares_of_the_time_have_one_decimal(saving: float, text: str, tmp_path: Path) -> None:
    """Of 5 s."""
    lines = [*map(train_line, range(1, 41)), {"kind": "checkpoint", "step": 40, "seconds_waited": saving}]
    lines = [line | {"seconds": line["step"] / 8} if line["kind"] == "train" else line for line in lines]
    drawn = figures.time_figure(report.load(make_run(tmp_path / "run", lines)))
    assert drawn and [note.get_text() for note in drawn.axes[0].texts][:4] == ["56.0%", "8.0%", "16.0%", text]


def test_a_branch_counts_its_own_time(tmp_path: Path) -> None:
    """Steps 31 to 40 take 1 s: what was trained before the branch began is not its time."""
    branched = resumed_line(30, samples=960) | {"kind": "branched", "from": "parent/step-30", "lr": 5e-4}
    lines = [branched, *(train_line(step, seconds=(step - 30) / 10) for step in range(31, 41))]
    run = report.load(make_run(tmp_path / "run", lines))
    expected = {"computing": 0.7, "waiting for data": 0.1, "waiting for gradients": 0.2, "saving": 0.0}
    assert figures.time_shares(run) == pytest.approx(expected | {"evaluation and start": 0.0})
    assert tables.event_rows(run) == [("30", "branched off from parent/step-30, learning rate 0.001 \u2192 0.0005")]


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    run = {"command": ["train.py", HOSTILE[0]], "facts": {HOSTILE[1]: HOSTILE[0]}, "versions": {HOSTILE[0]: "1"}}
    finding = {"level": "warning", "code": "x", "message": HOSTILE[0]}
    config = {"task": HOSTILE[0], "model": HOSTILE[7]}
    records = {"evaluations": [record(HOSTILE)]}
    folder = make_run(tmp_path / "<i>run", run=run | {"findings": [finding]}, evaluation=records, config=config)
    page = page_of(folder)
    assert_self_contained(page)
    assert "confusion" in page.figures and "49" not in page.texts
    for name in (HOSTILE[0], HOSTILE[1], HOSTILE[3], HOSTILE[5], HOSTILE[8], "(empty)"):
        assert name in page.texts, name
    assert not any(letter in "".join(page.texts) for letter in "\x00\x1b\u202e")
    assert max(len(text) for text in page.texts if text.startswith("long_")) <= 80


def test_many_classes_become_short_tables(tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(5000))
    folder = make_run(tmp_path / "run", evaluation={"evaluations": [record(names)]})
    page = page_of(folder)
    assert "confusion" not in page.figures and "Confused most often" in page.texts
    assert sum(bool(re.fullmatch(r"class \d+", text)) for text in page.texts) == 60 + 2 * 20 + 2 * 20
    assert (folder / "report.html").stat().st_size < 300_000


def test_numbers_and_language_models_have_figures_of_their_own(tmp_path: Path) -> None:
    numbers = {"step": 40, "kind": "number", "per_class": {}, "pairs": [[0.5, 1.0], [2.0, 1.5]], "examples": []}
    page = page_of(make_run(tmp_path / "a", evaluation={"evaluations": [numbers]}))
    assert "scatter" in page.figures and "By number" not in page.texts
    lines = [train_line(1), eval_line(1, perplexity=9.0), eval_line(2, perplexity=8.0)]
    assert "perplexity" in page_of(make_run(tmp_path / "b", lines)).figures


@pytest.mark.parametrize("lines", [[], [train_line(1)], [eval_line(1)], [train_line(1, loss=None, grad_norm=None)]])
def test_a_run_with_next_to_nothing(tmp_path: Path, lines: list) -> None:
    files = dict.fromkeys(("plan", "run", "result", "evaluation"))
    page = page_of(make_run(tmp_path / "run", lines, config={}, **files))
    assert_self_contained(page)
    assert "going on, or ended without a result" in page.texts


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in (1, 2):
        result = {"outcome": "done", "step": 40, "metrics": {"loss": float(seed)}}
        make_run(tmp_path / "sweep" / f"seed-{seed}", config={"seed": seed}, result=result)
    (tmp_path / "sweep" / "seeds.json").write_text("{}")
    assert main(["report", "sweep/seed-1", "--png"]) == 0
    first, *pictures = capsys.readouterr().out.split()
    assert first == "sweep/seed-1/report.html" and "sweep/seed-1/figures/learning_rate.png" in pictures
    assert all((tmp_path / path).read_bytes().startswith(b"\x89PNG") for path in pictures) and len(pictures) == 7
    assert main(["report", "sweep", "--over", "time"]) == 0
    assert capsys.readouterr().out == "sweep/report.html\n"
    page = Page(tmp_path / "sweep" / "report.html")
    assert_self_contained(page)
    assert page.figures == ["loss", "lr", "samples_per_second", "Held-out loss", "Held-out accuracy"]
    row = page.texts.index("standard deviation")
    assert "1.5" in page.texts and "0.70711" in page.texts[row:]  # of the losses 1 and 2
    assert main(["report", "sweep/seed-1", "sweep/seed-2"]) == 0
    assert capsys.readouterr().out == "report.html\n"
    assert main(["report", "nowhere"]) == 2 and "error: nowhere: not the directory" in capsys.readouterr().err
    assert main(["report", "sweep/seed-1", "--output", "missing/x.html"]) == 2
    assert "No such file" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.stage"))


def test_evaluations_are_drawn_over_what_was_asked_for(tmp_path: Path) -> None:
    runs = [report.load(make_run(tmp_path / name)) for name in "ab"]
    for over, expected in (("steps", 20), ("samples", 640), ("tokens", 18_000), ("time", 2.0)):
        figure = report.comparison_figures(runs, over)["Held-out loss"]
        assert [line.get_xdata()[0] for line in figure.axes[0].lines] == [expected] * 2


def test_the_page_has_what_a_run_writes(tmp_path: Path) -> None:
    """JSON with NaN, as Python writes it, breaks nothing."""
    lines = [train_line(step, loss=float("nan") if step == 3 else 1.0) for step in range(1, 41)]
    assert "NaN" in json.dumps(lines)
    assert "loss" in page_of(make_run(tmp_path / "run", lines)).figures
