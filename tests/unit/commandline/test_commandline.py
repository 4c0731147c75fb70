"""Command line and YAML -> configuration: the accepted spellings, and the answer to each mistake."""

from __future__ import annotations

import re

import pytest
import yaml

from warmup import commandline
from warmup.config import Config
from warmup.config.data import Data
from warmup.config.recipe import Recipe
from warmup.config.run import Batch, Evaluation, Launch, Log
from warmup.errors import UserError
from warmup.presets import PRESETS

PARSER = commandline.parser("prog", "description")


def parse(*argv):
    return commandline.parse(PARSER, argv)[0]


def refusal(*argv):
    with pytest.raises(UserError) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def file(tmp_path):
    def write(content, name="recipe.yaml"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


# How it may be written


def test_nothing_gives_the_defaults():
    assert parse() == Config()


@pytest.mark.parametrize(
    "argv",
    [
        ("--data.max-length", "64"),
        ("--data.max_length", "64"),
        ("--data.max_length=64",),
        ("--data.max-length=64",),
    ],
)
def test_hyphens_underscores_and_equals_signs(argv):
    assert parse(*argv) == Config(data=Data(max_length=64))


@pytest.mark.parametrize(
    ("argv", "files"),
    [
        (("a.csv",), ("a.csv",)),
        (("a.csv", "b.csv"), ("a.csv", "b.csv")),
        (('["a.csv", "b.csv"]',), ("a.csv", "b.csv")),
        (("a, b.csv",), ("a, b.csv",)),
        (("2024",), ("2024",)),
    ],
)
def test_a_list_takes_one_value_or_several(argv, files):
    assert parse("--data.train-files", *argv).data.train_files == files
    assert parse("--data.train-files", *argv, "--seed", "3") == Config(seed=3, data=Data(train_files=files))


@pytest.mark.parametrize("words", [("wandb,tensorboard",), ("wandb", "tensorboard"), ('["wandb", "tensorboard"]',)])
def test_commas_part_the_values_of_a_list(words):
    assert parse("--log.trackers", *words).log.trackers == ("wandb", "tensorboard")


def test_a_file_with_a_comma_in_its_name_stays_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("--data.train_files", "a,b.csv").data.train_files == ("a", "b.csv")
    (tmp_path / "a,b.csv").touch()
    assert parse("--data.train_files", "a,b.csv").data.train_files == ("a,b.csv",)


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (("--speed.compile",), True),
        (("--speed.compile", "True"), True),
        (("--speed.compile", "1"), True),
        (("--speed.compile", "--seed", "0"), True),
        (("--speed.compile", "recipe.lr=1e-4"), True),
        (("--speed.compile", "no"), False),
    ],
)
def test_a_switch_may_stand_alone(argv, value):
    assert parse(*argv).speed.compile is value


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("recipe.lr=5e-5",), Config(recipe=Recipe(lr=5e-5))),
        (("+recipe.lr=5e-5", "++model=mini"), Config(model="mini", recipe=Recipe(lr=5e-5))),
        (("--seed", "3", "recipe.lr=5e-5"), Config(seed=3, recipe=Recipe(lr=5e-5))),
        (("--model", "mini", "seed=3"), Config(model="mini", seed=3)),
        (("data.train_files=a.csv", "b.csv"), Config(data=Data(train_files=("a.csv", "b.csv")))),
        (
            ("--recipe.lr_ratios", "classifier=10", "embeddings=0", "recipe.lr=1e-3"),
            Config(recipe=Recipe(lr=1e-3, lr_ratios=("classifier=10", "embeddings=0"))),
        ),
    ],
)
def test_an_override_may_be_written_as_hydra_writes_it(argv, expected):
    assert parse(*argv) == expected


def test_lists_of_numbers_and_of_lengths():
    assert parse("--recipe.betas", "0.9", "0.98").recipe.betas == (0.9, 0.98)
    assert parse("--recipe.betas", "9e-1,0.98").recipe.betas == (0.9, 0.98)
    assert parse("--recipe.decay_milestones", "30 epochs").recipe.decay_milestones == ("30 epochs",)
    assert parse("--recipe.decay_milestones", "1 epoch", "50%").recipe.decay_milestones == ("1 epoch", "50%")


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (("--recipe.lr", "1e-4"), 1e-4),
        (("--recipe.lr", "1"), 1.0),
        (("--recipe.start_lr", "1e-5"), 1e-5),
        (("--recipe.start_lr", "reference"), "reference"),
        (("--recipe.reference_batch_size", "null"), None),
        (("--recipe.duration", "5 epochs"), "5 epochs"),
        (("--model", "123"), "123"),
        (("--evaluation.every", "200"), "200 steps"),
        (("--evaluation.every", "1 epochs"), "1 epochs"),
        (("--evaluation.every", "null"), None),
        (("--model", "no"), "no"),
        (("--dropout", "0"), 0.0),
        (("--run-dir", "null"), None),
    ],
)
def test_values_have_the_type_of_their_field(argv, value):
    config = parse(*argv)
    for name in argv[0][2:].replace("-", "_").split("."):
        config = getattr(config, name)
    assert config == value and type(config) is type(value)


# YAML


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1", Config(seed=1)),
        ("seed: 0", Config(seed=0)),
        ("dropout: 0", Config(dropout=0.0)),
        ("batch: {per_device: 1, accumulation: 1}", Config(batch=Batch(per_device=1, accumulation=1))),
        ("recipe: {lr: 1.0, end_lr: 0.0, max_grad_norm: 1.0}", Config(recipe=Recipe(lr=1.0))),
        ("recipe:\n  lr: 1e-4\n  eps: 1e-6", Config(recipe=Recipe(lr=1e-4, eps=1e-6))),
        ("recipe: {start_lr: 1e-5}", Config(recipe=Recipe(start_lr=1e-5))),
        ("recipe: {start_lr: reference}", Config(recipe=Recipe(start_lr="reference"))),
        ("recipe: {betas: [0.9, 9.8e-1]}", Config(recipe=Recipe(betas=(0.9, 0.98)))),
        ("recipe: {decay_milestones: [30 epochs, 60%]}", Config(recipe=Recipe(decay_milestones=("30 epochs", "60%")))),
        ("recipe: {decay_milestones: 30 epochs}", Config(recipe=Recipe(decay_milestones=("30 epochs",)))),
        ("data: {train_files: a.csv}", Config(data=Data(train_files=("a.csv",)))),
        ("data: {train_files: [a.csv, no, 7]}", Config(data=Data(train_files=("a.csv", "no", "7")))),
        ("data: {train_files: []}", Config()),
        ("recipe.lr: 1e-3", Config(recipe=Recipe(lr=1e-3))),
        ("{launch: {world_size: 1}, time_limit: 90 minutes}", Config(launch=Launch(1), time_limit="90 minutes")),
        ("run_dir: ~\ndropout: null", Config()),
        ("log: {<<: {every: 7}}", Config(log=Log(every=7))),
        ("evaluation: {every: 200, patience: 3}", Config(evaluation=Evaluation(every="200 steps", patience=3))),
        ("evaluation: {every: 10%}", Config(evaluation=Evaluation(every="10%"))),
        ("", Config()),
        ("# nothing", Config()),
    ],
)
def test_yaml(text, expected, file):
    assert parse("--config", file(text)) == expected


@pytest.mark.parametrize("word", ["no", "yes", "on", "true", "010", "1:30", "1_000", "2024-01-31", "1e-4", "1.0"])
def test_words_stay_as_they_are_written(word, file):
    """Plain YAML reads these as False, 8, 90, a date, ..."""
    config = parse("--config", file(f"model: {word}\nrun_dir: {word}\n"))
    assert (config.model, config.run_dir) == (word, word)


def test_utf8(file):
    assert parse("--config", file("data: {text_column: größe}")).data.text_column == "größe"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: yes", "seed: 'True' is not a whole number"),
        ("recipe: {lr: fast}", "recipe.lr: 'fast' is not a number"),
        ("recipe: {lr: -1}", "recipe.lr: -1.0 is not above 0"),
        ("recipe: {lr: .inf}", "recipe.lr: inf is not above 0"),
        ("recipe: {betas: [0.9, 0.98, 0.99]}", "recipe.betas: ['0.9', '0.98', '0.99'] is not 2 numbers"),
        ("recipe: {optimizer: adagrad}", "recipe.optimizer: "),
        ("recipe: {warmup: 6 percent}", "recipe.warmup: '6 percent' has the unknown unit 'percent'"),
        ("model: [a, b]", "model: takes one value, not a list"),
        ("model: ~", "model: needs a value; remove the line to use its default"),
        ("data: {train_files: }", "data.train_files: needs a value; remove the line to use its default"),
        ("recipe: {learning-rate: 1}", "recipe.learning-rate: no such field; write recipe.lr: 1"),
        ("recipe: {warmpu: 5 steps}", "recipe.warmpu: no such field; did you mean recipe.warmup?"),
        ("lr: 1e-4", "lr: no such field; did you mean recipe.lr?"),
        ("recipe: {per_device: 8}", "recipe.per_device: no such field; did you mean batch.per_device?"),
        ("log: {evaluate_every: 9}", "log.evaluate_every: no such field; did you mean evaluation.every?"),
        ("recipe: fast", "recipe: no such field; did you mean recipe."),
        ("batch: {accumulation: 2, global_size: 8}", "batch.accumulation and batch.global_size: give one"),
        ("preset: bert-base", "preset: no such field; see --help"),
    ],
)
def test_a_mistake_in_a_file_is_answered_with_the_file_and_the_field(text, message, file):
    path = file(text)
    assert refusal("--config", path).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1", "is not YAML: while parsing"),
        ("recipe: " + "[" * 3000 + "]" * 3000, "is nested too deeply; write fields as section: {name: value}"),
        ("{recipe: " * 3000 + "}" * 3000, "is nested too deeply"),
        ("recipe: &section\n  lr: *section\n", "has a section that contains itself"),
        ("recipe: {lr: !!int many}", "is not YAML: invalid literal for int"),
        ("recipe: {lr: !!timestamp x}", "is not YAML: 'NoneType' object has no attribute"),
        (b"\xff\xfe\x00", "is not YAML: 'utf-8'"),
        ("- a", "does not hold fields"),
    ],
)
def test_a_file_that_is_not_yaml(content, message, file):
    path = file(content)
    assert refusal("--config", path).startswith(f"--config: {path} {message}")


def test_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "no.yaml"
    assert refusal("--config", str(path)) == f"--config: cannot read {path}: No such file or directory"
    assert refusal("--config", str(tmp_path)) == f"--config: cannot read {tmp_path}: Is a directory"


# Mistakes on the command line


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("lr", "recipe.lr"),
        ("recipe.warmpu", "recipe.warmup"),
        ("log.evaluate-every", "evaluation.every"),
        ("patience", "evaluation.patience"),
        ("recipe.warmup-step", "recipe.warmup"),
        ("recipe.bata", "recipe.betas"),
        ("recipe.weight-decai", "recipe.weight_decay"),
        ("per_device", "batch.per_device"),
        ("globalsize", "batch.global_size"),
        ("world-size", "launch.world_size"),
        ("data.train_file", "data.train_files"),
        ("sed", "seed"),
        ("print-confg", "print_config"),
        ("rundir", "run_dir"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(typo, meant):
    name = typo.replace("-", "_")
    assert refusal(f"--{typo}", "1") == f"{name}: no such field; did you mean {meant}?"
    assert refusal(f"--{typo}=1") == f"{name}: no such field; did you mean {meant}?"


def test_a_name_near_nothing_points_to_the_help():
    assert refusal("--zzzzz") == "zzzzz: no such field; see --help"


def test_a_section_is_not_a_field():
    assert refusal("--recipe", "fast.yaml").startswith("recipe: no such field; did you mean recipe.")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--recipe.lr", "fast"), "recipe.lr: 'fast' is not a number"),
        (("--recipe.lr", "nan"), "recipe.lr: "),
        (("--recipe.lr", "-1e-4"), "recipe.lr: -0.0001 is not above 0"),
        (("--recipe.end_lr", ".inf"), "recipe.end_lr: inf is not 0 or above"),
        (("--seed", "1.5"), "seed: '1.5' is not a whole number"),
        (("--seed", "1", "2"), "seed: takes one value, not 2: 1 2"),
        (("--batch.per_device", "many"), "batch.per_device: 'many' is not a whole number"),
        (("--batch.per_device", "0"), "batch.per_device: 0 is not 1 or above"),
        (("--task", "mml"), "task: 'mml' is not one of mlm, clm, "),
        (("--recipe.betas", "0.9"), "recipe.betas: ['0.9'] is not 2 numbers"),
        (("--recipe.start_lr", "low"), "recipe.start_lr: 'low' is not a number or reference"),
        (("--launch.device", "gpu"), "launch.device: 'gpu' is not cpu or cuda"),
        (("--recipe.max_lr", "high"), "recipe.max_lr: 'high' is not a number"),
        (("--data.quoting", "all"), "data.quoting: 'all' is not auto, standard or none"),
        (("--speed.compile", "maybe"), "speed.compile: 'maybe' is not true or false"),
        (("--recipe.warmup", "6 percent"), "recipe.warmup: '6 percent' has the unknown unit 'percent'; write it like"),
        (("--recipe.lr",), "recipe.lr: needs a value"),
        (("--config",), "config: needs a value"),
        (("--preset",), "preset: needs a value"),
        (("--preset", "bert"), "--preset: 'bert' is none of bert-base, "),
        (("fast.yaml",), "'fast.yaml': not an option; a file of fields is given as --config fast.yaml"),
        (("-c", "fast.yaml"), "'-c': not an option; options are written --name value"),
        (("--batch.accumulation", "2", "--batch.global_size", "8"), "batch.accumulation and batch.global_size: "),
    ],
)
def test_a_mistake_is_answered_with_its_flag(argv, message):
    assert refusal(*argv).startswith(message)


def test_all_wrong_names_are_answered_at_once(file):
    meant = "recipe.warmpu: no such field; did you mean recipe.warmup?", "sed: no such field; did you mean seed?"
    assert refusal("--recipe.warmpu", "6%", "--model", "mini", "--sed", "1") == "; ".join(meant)
    path = file("recipe: {warmpu: 6%}\nsed: 1")
    with pytest.raises(UserError) as caught:
        parse("--config", path)
    assert str(caught.value) == f"{path}: {meant[0]}\n  {meant[1]}"


# What overrides what


def test_flags_override_files_in_any_order(file):
    path = file("seed: 3\nmodel: mini\nrecipe: {lr: 1e-3, warmup: 5 steps}")
    expected = Config(seed=5, model="mini", recipe=Recipe(lr=2e-3, warmup="5 steps"))
    assert parse("--config", path, "--seed", "5", "--recipe.lr", "2e-3") == expected
    assert parse("--recipe.lr", "2e-3", "--seed", "5", "--config", path) == expected
    assert parse("--seed", "5", "--config", path, "--recipe.lr", "2e-3") == expected


def test_a_later_file_overrides_an_earlier_one(file):
    first, second = file("seed: 1\nmodel: mini", "1.yaml"), file("seed: 2", "2.yaml")
    assert parse("--config", first, "--config", second) == Config(seed=2, model="mini")
    assert parse("--config", second, "--config", first) == Config(seed=1, model="mini")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_its_recipe_and_batch(name):
    assert parse("--preset", name) == Config(recipe=PRESETS[name].recipe, batch=PRESETS[name].batch)


def test_flags_override_a_preset_in_any_order(file):
    for argv in (
        ("--preset", "resnet50-goyal", "--recipe.lr", "0.2"),
        ("--recipe.lr", "0.2", "--preset", "resnet50-goyal"),
        ("--preset", "resnet50-goyal", "--config", file("recipe: {lr: 0.2}")),
    ):
        recipe = parse(*argv).recipe
        assert recipe.lr == 0.2 and recipe.warmup == "5 epochs" and recipe.start_lr == "reference"
        assert recipe.decay_milestones == ("30 epochs", "60 epochs", "80 epochs")


# What it prints


def printed(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        parse(*argv)
    assert caught.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("--seed", "1", "--run-dir", "no", "--recipe.betas", "0.9", "0.98", "--data.train_files", "a.csv", "7"),
        ("--recipe.lr", "1e-5", "--recipe.eps", "1e-12", "--dropout", "0", "--time_limit", "90 minutes"),
        *(("--preset", name) for name in PRESETS),
    ],
)
def test_print_config_gives_the_same_configuration_again(argv, file, capsys):
    text = printed(capsys, *argv, "--print-config")
    assert parse("--config", file(text)) == parse(*argv)


def test_print_config_shows_every_field(capsys):
    text = yaml.safe_load(printed(capsys, "--print_config", "--recipe.warmup", "7%"))
    assert text["recipe"]["warmup"] == "7%"
    assert [name for name, _ in commandline.leaves(text)] == list(commandline.FIELDS)


def test_help_explains_every_field(capsys):
    text = printed(capsys, "--help")
    assert text == printed(capsys, "-h")
    for name in commandline.FIELDS:
        assert re.search(rf"^  --{re.escape(name)} .+", text, re.MULTILINE), name
    assert "Learning rate at the reference batch size" in text and "bert-large-lamb" in text
    words = " ".join(text.split())
    assert "--recipe.decay_milestones X [X ...] Multistep" in words
    assert "Cosine: number of cycles, each of which starts at the peak. (default: 1)" in words
    assert "k = global batch size / reference batch size" in words and "The scale k is" in words
    assert (
        "--recipe CONFIG" not in text and "type:" not in text
    )  # a reader of YAML need not know the names of Python's types
    for word in ("wall time", "freezes", "early", "best evaluation"):  # words that users search for
        assert word in words, word


@pytest.mark.parametrize("value", ["&list [*list]", "[!!set {a}]", "[[1]]", "[{a: 1}]"])
def test_a_list_of_anything_but_plain_values_is_refused(value, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"recipe: {{decay_milestones: {value}}}\n")
    assert refusal("--config", str(path)) == f"{path}: recipe.decay_milestones: takes a list of plain values"
