"""`python -m warmup plan`: what it prints, draws and returns, and that it answers without torch."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from fuzz_plans import fuzz
from harness import ROOT

from warmup import commandline, plan_command
from warmup.__main__ import main
from warmup.config.recipe import Recipe
from warmup.duration import DataSize
from warmup.plan import Topology
from warmup.plan_command.plot import plan_figure
from warmup.plan_command.results import examine_all
from warmup.planning import make_plan
from warmup.report.theme import style

RECIPE = (
    "--recipe.reference_batch_size", "256", "--recipe.warmup", "10000 steps", "--recipe.duration", "1000000 steps",
    "--recipe.optimizer", "sgd",
)  # fmt: skip
KEYS = {
    "world_size", "per_device_batch_size", "accumulation", "global_batch_size", "scale", "peak_lr", "start_lr",
    "warmup_steps", "total_steps", "betas", "eps", "momentum", "alpha", "weight_decay", "lr",
    "batch_sizes", "findings",
}  # fmt: skip


def command(capsys, *argv):
    """Exit code, standard output, standard error."""
    code = main(["plan", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def plans(capsys, *argv, code=0):
    """The plans as JSON. `code`: the exit code to expect; None for any."""
    exit_code, out, err = command(capsys, *argv, "--json")
    assert exit_code in ((0, 1) if code is None else (code,))
    assert [line for line in err.splitlines() if not line.startswith("tokenising ")] == []
    parsed = json.loads(out)
    assert list(parsed) == ["plans"]
    return parsed["plans"]


def test_json_has_the_plan_of_each_world_size(capsys):
    results = plans(capsys, *RECIPE, "--world-sizes", "1,2,8,64", "--batch.accumulation", "2")
    recipe = Recipe("sgd", reference_batch_size=256, warmup="10000 steps", duration="1000000 steps")
    assert [plan["world_size"] for plan in results] == [1, 2, 8, 64]
    for plan in results:
        assert set(plan) >= KEYS and plan["findings"] == []
        made = make_plan(recipe, Topology(plan["world_size"], 32, 2))
        numbers = {key: value for key, value in made.to_dict().items() if key != "lr"}  # the curve has this name
        assert {key: plan[key] for key in numbers} == numbers
        assert [made.lr_at_step(step) for step, _ in plan["lr"]] == [lr for _, lr in plan["lr"]]


def test_json_of_8_ranks(capsys):
    (plan,) = plans(capsys, *RECIPE, "--world_sizes", "8", "--batch.accumulation=2")
    expected = {
        "world_size": 8, "per_device_batch_size": 32, "accumulation": 2, "global_batch_size": 512, "scale": 2.0,
        "peak_lr": 2e-4, "start_lr": 0.0, "warmup_steps": 5000, "total_steps": 500_000, "betas": [0.9, 0.999],
        "eps": 1e-8,
    }  # fmt: skip
    assert {key: plan[key] for key in expected} == expected


def test_scaled_numbers_are_columns_beside_a_row_of_the_reference(capsys):
    argv = (*RECIPE, "--recipe.optimizer", "adamw", "--recipe.scaled", "all", "--recipe.lr", "1e-4")
    _, out, _ = command(capsys, *argv, "--world-sizes", "32,320")
    assert [line.split() for line in out.splitlines() if not line.startswith("warning")] == [
        ["ranks", "batch", "k", "rule", "peak", "lr", "warmup", "steps", "samples", "share", "total", "steps", "beta1",
         "beta2", "eps", "weight", "decay"],
        ["reference", "256", "1", "sqrt", "0.0001", "10000", "2560000", "1%", "1000000", "0.9", "0.999", "1e-08",
         "0.01"],
        ["32", "1024", "4", "sqrt", "0.0002", "2500", "2560000", "1%", "250000", "0.6", "0.996", "5e-09", "0.02"],
        ["320", "10240", "40", "sqrt", "0.000632456", "250", "2560000", "1%", "25000", f"{0.9**40:.6g}",
         f"{0.999**40:.6g}", "1e-08", "0.0632456"],
    ]  # fmt: skip
    _, out, _ = command(capsys, *argv, "--world-sizes", "8,32")
    assert [line.split()[0] for line in out.splitlines()] == ["ranks", "8", "32"]  # the first is at the reference


def test_json_has_numbers_at_the_reference_and_now(capsys):
    argv = (*RECIPE, "--recipe.optimizer", "adamw", "--recipe.scaled", "all", "--world-sizes", "32,999999")
    plan, missing = plans(capsys, *argv, "--batch.global_size", "1024", code=1)
    names = ("weight_decay", "momentum", "alpha", "betas", "eps")
    assert [plan[name] for name in names] == [0.02, 0.9, 0.99, [0.6, 0.996], 5e-9]
    assert [plan[f"reference_{name}"] for name in names] == [0.01, 0.9, 0.99, [0.9, 0.999], 1e-8]
    assert [missing[name] for name in names] == [None] * 5


@pytest.mark.parametrize("total", [1, 7, 150, 400, 999, 10_000, 1_000_000])
def test_a_curve_has_about_200_points_and_the_last_step(total, capsys):
    argv = ("--recipe.reference_batch_size", "32", "--recipe.duration", f"{total} steps", "--world-sizes", "1")
    steps = [step for step, _ in plans(capsys, *argv)[0]["lr"]]
    assert steps[0] == 0 and steps[-1] == total - 1 and steps == sorted(set(steps))
    assert min(total, 200) <= len(steps) <= 400


def test_every_chooses_the_points(capsys):
    argv = (*RECIPE, "--recipe.duration", "10 steps", "--recipe.warmup", "4 steps", "--world-sizes", "8")
    (plan,) = plans(capsys, *argv, "--every", "3")
    assert plan["lr"] == [[0, 2.5e-5], [3, 1e-4], [6, pytest.approx(1e-4 * 4 / 6)], [9, pytest.approx(1e-4 / 6)]]
    assert [step for step, _ in plans(capsys, *argv, "--every", "4")[0]["lr"]] == [0, 4, 8, 9]
    assert [step for step, _ in plans(capsys, *argv, "--every", "1")[0]["lr"]] == list(range(10))
    assert [step for step, _ in plans(capsys, *argv, "--every", "99")[0]["lr"]] == [0, 9]


def test_the_world_sizes_by_default(capsys):
    assert [plan["world_size"] for plan in plans(capsys, *RECIPE)] == [1, 2, 4, 8]
    assert [plan["world_size"] for plan in plans(capsys, *RECIPE, "--launch.world_size", "6")] == [6]
    assert [plan["world_size"] for plan in plans(capsys, *RECIPE, "--world-sizes", "3", "5")] == [3, 5]


def test_a_config_file_and_overrides(capsys, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("recipe: {lr: 1e-3, reference_batch_size: 32, duration: 2 epochs}\nbatch: {per_device: 16}\n")
    argv = ("--config", str(path), "--num-samples", "1000", "--world-sizes", "4")
    (plan,) = plans(capsys, *argv)
    assert (plan["peak_lr"], plan["total_steps"], plan["num_samples"]) == (2e-3, 32, 1000)  # 2000 / 64
    (plan,) = plans(capsys, *argv, "--recipe.lr", "5e-3")
    assert plan["peak_lr"] == 1e-2


def test_a_preset_brings_its_number_of_samples(capsys):
    (plan,) = plans(capsys, "--preset", "resnet50-goyal", "--world-sizes", "256")
    assert (plan["global_batch_size"], plan["peak_lr"], plan["start_lr"]) == (8192, pytest.approx(3.2), 0.1)
    assert (plan["warmup_steps"], plan["total_steps"]) == (782, 14_076)  # 5 and 90 epochs of 1,281,167
    (plan,) = plans(capsys, "--preset", "resnet50-goyal", "--world-sizes", "256", "--num-samples", "819200")
    assert (plan["warmup_steps"], plan["total_steps"]) == (500, 9000)


def test_an_error_finding_ends_in_1_and_the_other_world_sizes_are_still_planned(capsys):
    argv = (*RECIPE, "--batch.global_size", "256", "--world-sizes", "64,256,257")
    results = plans(capsys, *argv, code=1)
    assert [[finding["code"] for finding in plan["findings"]] for plan in results] == [[], [], ["idle-ranks"]]
    assert results[1]["total_steps"] == 1_000_000
    impossible = results[2]
    assert set(impossible) == KEYS
    assert (impossible["world_size"], impossible["global_batch_size"]) == (257, 256)
    assert (impossible["peak_lr"], impossible["lr"], impossible["findings"][0]["level"]) == (None, [], "error")
    assert impossible["batch_sizes"] == []


@pytest.mark.parametrize(
    ("argv", "code", "expected"),
    [
        (("--recipe.duration", "10 steps"), 1, "reference-missing"),
        ((*RECIPE, "--recipe.warmup", "2M steps"), 1, "peak-never-reached"),
        ((*RECIPE, "--recipe.scaling", "linaer"), 1, "shape"),
        ((*RECIPE, "--recipe.warmup", "100%"), 0, "warmup-is-whole-run"),
    ],
)
def test_errors_end_in_1_and_warnings_in_0(argv, code, expected, capsys):
    (plan,) = plans(capsys, *argv, "--world-sizes", "8", code=code)
    assert [finding["code"] for finding in plan["findings"]] == [expected]


FROM_1 = "--world-sizes, --every, --num-samples, --tokens-per-sample: numbers must be 1 or above, and at most 1e30\n"
LONG = "9" * 400


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--recipe.rl", "1"), "error: recipe.rl: no such field; did you mean recipe."),
        (("--recipe.lr", "fast"), "error: recipe.lr: 'fast' is not a number"),
        (("--world-size", "8"), "error: world_size: no such field; did you mean world_sizes?"),
        (("--world-sizes", "0"), f"error: {FROM_1}"),
        (("--every", "0"), f"error: {FROM_1}"),
        (("--num-samples", "0"), f"error: {FROM_1}"),
        (("--tokens-per-sample", "0.5"), f"error: {FROM_1}"),
        (("--tokens-per-sample", ".inf"), f"error: {FROM_1}"),
        (("--world-sizes", LONG), f"error: {FROM_1}"),
        (("--every", LONG), f"error: {FROM_1}"),
        (
            ("--batch.per_device", LONG),
            f"error: batch.per_device: {'9' * 40}...{'9' * 20} is not 1 or above, and at most",
        ),
        (
            ("--recipe.duration", f"{LONG} steps"),
            f"error: recipe.duration: '{'9' * 39}...{'9' * 13} steps' is not a dura",
        ),
        (("--recipe.lr", "[" * 3000), "error: recipe.lr: [[["),
        (("--recipe.betas", "[" * 3000 + "]" * 3000), "error: the arguments cannot be read: RecursionError: "),
        (("--recipe.lr", "!!timestamp x"), "error: the arguments cannot be read: AttributeError: "),
        (("--world-sizes", "many"), "error: world_sizes: "),
        (("--config", "no.yaml"), "error: --config: cannot read no.yaml: No such file or directory"),
        (("--preset", "bert"), "error: --preset: 'bert' is none of bert-base, "),
    ],
)
def test_bad_arguments_end_in_2_with_one_line(argv, message, capsys):
    code, out, err = command(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith(message) and err.count("\n") == 1


@pytest.mark.parametrize(("argv", "code"), [([], 2), (["plna"], 2), (["--help"], 0), (["-h"], 0)])
def test_without_the_word_plan_there_is_only_the_usage(argv, code, capsys):
    assert main(argv) == code
    assert capsys.readouterr().err.startswith("usage: python -m warmup plan")


def test_lengths_in_tokens(capsys):
    lengths = ("--recipe.duration", "1.6M tokens", "--recipe.warmup", "160k tokens")
    (plan,) = plans(capsys, *RECIPE, *lengths, "--world-sizes", "8", "--tokens-per-sample", "62.5")
    assert (plan["duration_samples"], plan["tokens_per_sample"]) == (25_600, 62.5)
    assert (plan["warmup_samples"], plan["total_samples"]) == (2560, 25_600)
    (plan,) = plans(capsys, *RECIPE, *lengths, "--world-sizes", "8", code=1)
    assert [finding["code"] for finding in plan["findings"]] == ["length-unknown"]


def test_the_table(capsys):
    code, out, _ = command(
        capsys, *RECIPE, "--recipe.optimizer", "adamw", "--recipe.max_lr", "9e-4", "--recipe.betas", "0.9", "0.98",
        "--world-sizes", "1,8,96",
    )  # fmt: skip
    assert code == 0
    head, one, eight, many, *notes = out.splitlines()
    assert " ".join(head.split()) == "ranks batch k rule peak lr warmup steps samples share total steps"
    assert one.split() == ["1", "32", "0.125", "linear", "1.25e-05", "80000", "2560000", "1%", "8000000"]
    assert eight.split() == ["8", "256", "1", "linear", "0.0001", "10000", "2560000", "1%", "1000000"]
    assert many.split() == ["96", "3072", "12", "linear", "0.0009*", "833", "2558976", "1%", "83334"]
    assert len({len(line) for line in (head, one, eight, many)}) == 1
    assert len(notes) == 1 and notes[0].startswith("warning [linear-adaptive] at 96 ranks: recipe.scaling: ")


def test_the_table_joins_what_several_world_sizes_have_in_common(capsys):
    code, out, _ = command(capsys, "--recipe.duration", "5 steps", "--world-sizes", "1,2")
    assert code == 1
    lines = out.splitlines()
    assert [line.split() for line in lines[1:3]] == [["1", *"-" * 8], ["2", *"-" * 8]]
    assert len(lines) == 4 and lines[3].startswith("error [reference-missing] at 1, 2 ranks: ")


@pytest.mark.parametrize("source", [RECIPE, ("--preset", "resnet50-goyal")])
def test_plot_writes_a_png(source, capsys, tmp_path):
    path = tmp_path / "plan.png"
    code, out, err = command(capsys, *source, "--world-sizes", "1,8", "--plot", str(path))
    assert (code, err) == (0, "") and out.startswith("ranks")
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and content[-8:-4] == b"IEND"
    assert (int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) == (1650, 630)  # 11 x 4.2 inches at 150


def test_the_picture_has_steps_and_samples_the_warmup_and_the_findings(capsys):
    argv = (*RECIPE, "--recipe.optimizer", "adamw", "--recipe.betas", "0.9", "0.98", "--world-sizes", "8,16,128")
    config, _ = commandline.parse(plan_command._parser(), argv)
    results = examine_all(config, [8, 16, 128], DataSize())
    with style():
        left, right = plan_figure(results).axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("step", "samples")
    lines = {line.get_label(): line for line in left.lines if line.get_label()[0] != "_"}
    assert list(lines) == [
        "8 ranks, batch 256, 1000000 steps", "16 ranks, batch 512, 500000 steps", "128 ranks, batch 4096, 62500 steps",
    ]  # fmt: skip
    peaks = [(line.get_xdata()[line.get_ydata().argmax()], line.get_ydata().max()) for line in lines.values()]
    assert peaks == [(10_000, 1e-4), (5000, 2e-4), (625, pytest.approx(1.6e-3))]
    ends = [line.get_xdata()[-1] + size for line, size in zip(right.lines, (256, 512, 4096))]
    assert ends == [256e6] * 3  # all of them after the same samples
    shaded = [area.get_paths()[0].vertices[:, 0].max() for area in right.collections]
    assert shaded[:2] == [2_560_000] * 2 and len(left.collections) == 3
    (mark,) = [line for line in left.lines if line.get_marker() == "D"]
    assert mark.get_ydata() == [pytest.approx(1.6e-3)]  # at the peak of the plan that has a finding
    assert [text.get_text() for text in left.texts] == ["warning [linear-adaptive] at 128 ranks"]


ARITHMETIC = [
    ("--preset", "bert-base"),
    ("--preset", "resnet50-goyal"),
    ("--preset", "bert-base", "--recipe.scaling", "sqrt", "--recipe.warmup_scaling", "steps"),
    ("--config", "configs/finetune_classification.yaml", "--num-samples", "67349", "--batch.global_size", "96"),
    ("--config", "configs/quickstart_pretrain.yaml", "--recipe.decay", "wsd", "--recipe.decay_length", "7%"),
    (*RECIPE, "--recipe.duration", "1.5B tokens", "--tokens-per-sample", "33.7", "--recipe.warmup", "3M tokens"),
    (*RECIPE, "--recipe.max_lr", "3e-4", "--recipe.start_lr", "1e-6", "--recipe.end_lr", "1e-5"),
    (*RECIPE, "--recipe.warmup", "0 steps", "--recipe.beta_scaling", "half-life", "--recipe.momentum", "0.9"),
    (*RECIPE, "--recipe.optimizer", "adamw", "--recipe.beta_scaling", "sde", "--recipe.scaling", "auto"),
    (*RECIPE, "--recipe.optimizer", "adamw", "--recipe.scaled", "all", "--recipe.max_lr", "1e-4"),
    (*RECIPE, "--recipe.optimizer", "adamw", "--recipe.scaling", "noise", "--recipe.noise_scale", "1.5k samples",
     "--recipe.beta_scaling", "none,half-life"),
    (*RECIPE, "--recipe.optimizer", "sgd", "--recipe.scaling", "noise", "--recipe.noise_scale", "100k tokens",
     "--tokens-per-sample", "70", "--recipe.beta_scaling", "half-life", "--recipe.beta_floor", "0.8",
     "--recipe.weight_decay_scaling", "timescale"),
    (*RECIPE, "--recipe.decay", "multistep", "--recipe.decay_milestones", "30%,60%", "--recipe.warmup", "1%",
     "--recipe.duration", "0.3M samples"),
    (*RECIPE, "--batch.warmup", "1M samples", "--batch.start_size", "31", "--recipe.duration", "7777 steps"),
    (*RECIPE, "--batch.warmup", "50%", "--batch.start_size", "48", "--recipe.warmup", "1000 steps",
     "--recipe.scaling", "sqrt", "--recipe.warmup_scaling", "steps", "--recipe.duration", "9999 steps"),
]  # fmt: skip
NUMBERS = {
    "global batch": "global_batch_size", "accumulation": "accumulation", "scale k": "scale",
    "total steps": "total_steps", "samples of the run": "total_samples",
    "warmup steps": "warmup_steps", "peak lr": "peak_lr", "scaled lr": "uncapped_lr",
    "decay length": "decay_length_samples", "momentum": "momentum", "eps": "eps", "weight decay": "weight_decay",
}  # fmt: skip


LINE = re.compile(r"  ([a-z0-9 ]+): (.+) = (\S+|\(\d+ / \d+\))( steps| samples| micro-batches)?( \([^=]+\))?")


def computed(expression):
    """The value of an expression as --explain prints it, in exact numbers where there are no roots."""
    names = {"ceil": math.ceil, "sqrt": math.sqrt, "round": lambda x: math.floor(x + Fraction(1, 2)), "max": max}
    python = re.sub(
        r"(?<![\w.])(\d+(\.\d+)?(e[+-]?\d+)?)", r"Fraction('\1')", expression.replace(" x ", " * ").replace("^", "**")
    )
    return eval(python, {"__builtins__": {}, "Fraction": Fraction, "min": min, **names})


@pytest.mark.parametrize("argv", ARITHMETIC, ids=range(len(ARITHMETIC)))
def test_the_arithmetic_can_be_checked(argv, capsys, monkeypatch):
    """Each line's expression gives its value, and that is the number of the plan."""
    monkeypatch.chdir(ROOT)
    argv = (*argv, "--world-sizes", "3,16")
    of_size = {plan["world_size"]: plan for plan in plans(capsys, *argv, code=None)}
    _, out, _ = command(capsys, *argv, "--explain")
    checked, plan = 0, {}
    for line in out.splitlines():
        if found := re.fullmatch(r"at (\d+) ranks:", line):
            plan = of_size[int(found[1])]
        if found := LINE.fullmatch(line):
            name, expression, value = found[1], found[2], computed(found[3])
            assert float(computed(expression)) == pytest.approx(float(value), rel=1e-9), line
            if name in NUMBERS:
                assert float(value) == pytest.approx(plan[NUMBERS[name]], rel=1e-9), line
                checked += 1
            if name.startswith("beta"):
                assert float(value) == pytest.approx(plan["betas"][int(name[-1]) - 1], rel=1e-9)
            if name.startswith("lr of the"):
                assert float(value) == pytest.approx(plan["lr"][0 if "first" in name else -1][1], rel=1e-9)
    assert checked >= 10  # at two world sizes


def test_the_difference_of_two_configurations(capsys, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(
        "recipe: {lr: 2e-4, reference_batch_size: 256, warmup: 10000 steps, duration: 1000000 steps, optimizer: sgd}\n"
    )
    code, out, _ = command(capsys, *RECIPE, "--recipe.lr", "1e-4", "--world-sizes", "8,16", "--against", str(other))
    lines = [line.split() for line in out.splitlines()[4:]]
    assert code == 0 and lines == [
        ["this", str(other)],
        ["recipe.lr", "0.0001", "0.0002"],
        ["peak", "lr", "at", "8", "ranks", "0.0001", "0.0002"],
        ["peak", "lr", "at", "16", "ranks", "0.0002", "0.0004"],
    ]
    _, out, _ = command(capsys, "--config", str(other), "--against", str(other))
    assert out.splitlines()[-1] == f"no difference from {other}"
    other.write_text("recipe: {duration: 3 epochs}\n")
    _, out, _ = command(capsys, *RECIPE, "--against", str(other))
    assert f"{other}: error [reference-missing] at 1, 2, 4, 8 ranks: " in out


@pytest.mark.parametrize("more", ["--explain", "--against=x.yaml"])
def test_json_stays_json(more, capsys):
    assert command(capsys, *RECIPE, "--json", more) == (
        2, "", "error: --json: prints plans only; leave out --explain and --against\n",
    )  # fmt: skip


def test_samples_are_counted_where_a_length_needs_them(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WARMUP_CACHE", str(tmp_path / "cache"))
    rows, held_out = tmp_path / "rows.csv", tmp_path / "held_out.csv"
    for path in (rows, held_out):
        path.write_text("text,label\n" + "".join(f"word{n % 7} word{n % 3},{n % 2}\n" for n in range(100)))
    argv = (
        "--task", "classification", "--data.train_files", str(rows), "--data.validation_files", str(held_out),
        "--model", "tiny", "--recipe.reference_batch_size", "8", "--recipe.duration", "3 epochs",
        "--batch.per_device", "8", "--world-sizes", "1,2", "--recipe.warmup", "10%",
    )  # fmt: skip
    assert [plan["total_steps"] for plan in plans(capsys, *argv)] == [38, 19]  # 300 samples
    assert [plan["num_samples"] for plan in plans(capsys, *argv, "--num-samples", "40")] == [40, 40]
    (plan, _) = plans(capsys, *argv, "--recipe.duration", "400 tokens")
    assert plan["duration_samples"] == 100 and plan["tokens_per_sample"] == 4.0  # of two words and two special tokens
    _, _, err = command(capsys, *argv, "--data.train_files", str(tmp_path / "missing.csv"))
    assert err == f"error: {tmp_path / 'missing.csv'} does not exist\n"


@pytest.mark.parametrize("name", ["no_folder/plan.png", "plan.doc"])
def test_a_plot_that_cannot_be_written(name, capsys, tmp_path):
    code, _, err = command(capsys, *RECIPE, "--plot", str(tmp_path / name))
    assert code == 2 and err.startswith(f"error: --plot: cannot write {tmp_path / name}: ") and err.count("\n") == 1


def test_random_commands_end_in_plans_or_in_one_line():
    """The first of those that `python tests/fuzz_plans.py` runs."""
    ends = []
    for argv, end, error in fuzz(120):
        assert not error, f"{argv}\n{error}"
        ends.append(end)
    assert min(ends.count(end) for end in ("planned", "finding", "refused")) >= 12  # each is tried


def test_an_exponential_decay_after_a_warmup_that_is_longer_than_the_run(capsys):
    argv = (
        "--recipe.lr", "1e-4", "--recipe.reference_batch_size", "256", "--recipe.decay", "exponential",
        "--recipe.decay_length", "1%", "--recipe.duration", "7 steps", "--recipe.warmup", "730 steps",
        "--recipe.warmup_scaling", "steps", "--batch.per_device", "81", "--world-sizes", "1",
    )  # fmt: skip
    (plan,) = plans(capsys, *argv, code=1)
    assert [finding["code"] for finding in plan["findings"]] == ["peak-never-reached", "overrun"]
    assert [lr for _, lr in plan["lr"]] == pytest.approx([1e-4 * 81 / 256 * (step + 1) / 730 for step in range(23)])


def test_a_users_function_that_exits_is_a_finding(capsys):
    (plan,) = plans(capsys, *RECIPE, "--recipe.scaling", "sys:exit", "--world-sizes", "8", code=1)
    assert plan["findings"] == [
        {"code": "shape", "level": "error", "message": "recipe.scaling: 'sys:exit' failed: SystemExit: 1"}
    ]


def test_a_users_function_that_fails_on_the_way_ends_in_one_line(capsys):
    argv = (*RECIPE, "--recipe.decay", "fuzz_plans:fails_on_the_way", "--world-sizes", "8", "--json")
    assert command(capsys, *argv) == (
        2, "", "error: recipe.decay: 'fuzz_plans:fails_on_the_way' failed: RuntimeError: only in the middle\n",
    )  # fmt: skip


def test_a_curve_of_too_many_points_is_refused(capsys):
    assert command(capsys, *RECIPE, "--world-sizes", "8", "--every", "9", "--json") == (
        2, "", "error: --every: every 9 of 1000000 steps are more than 100000 points of a curve; give 10 or above\n",
    )  # fmt: skip
    assert len(plans(capsys, *RECIPE, "--world-sizes", "8", "--every", "10")[0]["lr"]) == 100_001


def test_it_answers_without_torch():
    code = (
        "import sys; from warmup.__main__ import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'accelerate', 'numpy', 'datasets'} & set(sys.modules); "
        "print(heavy or 'light'); raise SystemExit(code)"
    )
    argv = [sys.executable, "-c", code, "plan", "--preset", "bert-base"]
    answer = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.splitlines()[-1] == "light"


def test_the_module_is_the_command():
    answer = subprocess.run(
        [sys.executable, "-m", "warmup", "plan", "--sed", "1"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "error: sed: no such field; did you mean seed?\n"


def test_what_is_no_part_of_the_package_is_said_to_be_elsewhere(capsys):
    for name in ("train", "predict"):
        assert main([name, "--config", "x.yaml"]) == 2
        assert "train.py is a template and no part of the installed package: clone" in capsys.readouterr().err


def test_the_noise_scale_that_a_run_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [{"kind": "train", "noise_scale": value} for value in (None, 90.0, 96.4)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "train", "noise_sc')
    rule = ("--recipe.scaling", "noise", "--recipe.optimizer", "sgd", "--recipe.lr", "0.1", "--batch.per_device", "32")
    rule = (*rule, "--recipe.reference_batch_size", "32", "--recipe.duration", "100 steps", "--world-sizes", "1,4")
    code, out, _ = command(capsys, *rule, "--noise-from", str(tmp_path))
    assert code == 0 and f"that {tmp_path} measured, 96 samples:" in out
    _, out, _ = command(capsys, *rule, "--noise-from", str(tmp_path), "--json")
    one, four = json.loads(out)["plans"]
    assert one["peak_lr"] == pytest.approx(0.1, rel=1e-12)
    assert four["peak_lr"] == pytest.approx(0.1 * 4 * (32 + 96) / (128 + 96), rel=1e-12)
    with open(tmp_path / "metrics.jsonl", "a") as log:  # since then it has no upper limit
        log.write('\n{"kind": "train", "noise_scale": null, "noise_scale_low": 700.2}\n')
    _, out, _ = command(capsys, *rule, "--noise-from", str(tmp_path))
    assert f"that {tmp_path} measured, 700 samples or more:" in out
    with open(tmp_path / "metrics.jsonl", "ab") as log:  # a line that is not UTF-8, and one that is no object
        log.write(b'{"noise_scale": "\xff\n["noise_scale"]\n')
    _, out, _ = command(capsys, *rule, "--noise-from", str(tmp_path))
    assert f"that {tmp_path} measured, 700 samples or more:" in out
    (tmp_path / "metrics.jsonl").write_text("")
    for run, why in ((tmp_path, "has measured no noise scale"), (tmp_path / "none", "is not the directory of a run")):
        code, _, err = command(capsys, *rule, "--noise-from", str(run))
        assert code == 2 and err.startswith(f"error: --noise-from: {run} {why}") and err.count("\n") == 1
