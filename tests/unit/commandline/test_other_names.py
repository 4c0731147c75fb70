"""Options of transformers' Trainer and its example scripts: what each one is here, and whole commands rewritten."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from harness import ROOT
from trainer_commands import COMMANDS, whole_command

from warmup import commandline
from warmup.commandline.other_names import OTHER_NAMES
from warmup.commandline.whole_command import COMMAND, quote
from warmup.errors import UserError
from warmup.training.run import arguments

NAMES = {
    "num_train_epochs 3": '--recipe.duration "3 epochs"',
    "num_train_epochs 3.0": '--recipe.duration "3 epochs"',
    "num_train_epochs 0.5": '--recipe.duration "0.5 epochs"',
    "max_steps 1000": '--recipe.duration "1000 steps"',
    "max_steps -1": "leave it out (-1 means no limit)",
    "max_train_steps 1000": '--recipe.duration "1000 steps"',
    "per_device_train_batch_size 32": "--batch.per_device 32",
    "per_device_eval_batch_size 64": "--batch.evaluation 64",
    "gradient_accumulation_steps 4": "--batch.accumulation 4",
    "learning_rate 5e-5": "--recipe.lr 5e-5",
    "lr_scheduler_type cosine": "--recipe.decay cosine",
    "lr_scheduler_type constant_with_warmup": "--recipe.decay constant",
    "lr_scheduler_type reduce_lr_on_plateau": "leave it out "
    "(--recipe.decay has linear, cosine, wsd and others; see --help)",
    "warmup_steps 500": '--recipe.warmup "500 steps"',
    "warmup_steps 0.06": "--recipe.warmup 6%",
    "num_warmup_steps 500": '--recipe.warmup "500 steps"',
    "warmup_ratio 0.06": "--recipe.warmup 6%",
    "warmup_ratio 0.125": "--recipe.warmup 12.5%",
    "optim adamw_torch_fused": "--recipe.optimizer adamw",
    "optim lion_8bit": "leave it out (--recipe.optimizer has adamw, sgd, lamb and others)",
    "adam_beta1 0.95": "--recipe.betas 0.95 0.999",
    "adam_beta2 0.98": "--recipe.betas 0.9 0.98",
    "adam_epsilon 1e-6": "--recipe.eps 1e-6",
    "weight_decay 0.1": "--recipe.weight_decay 0.1",
    "max_grad_norm 0.5": "--recipe.max_grad_norm 0.5",
    "label_smoothing_factor 0.1": "--recipe.label_smoothing 0.1",
    "model_name_or_path bert-base-uncased": "--model bert-base-uncased",
    "tokenizer_name bert-base-uncased": "--data.tokenizer bert-base-uncased",
    "task_name sst2": "--task classification --data.train_files hub:nyu-mll/glue:sst2:train "
    "--data.validation_files hub:nyu-mll/glue:sst2:validation",
    "task_name stsb": "--task regression --data.train_files hub:nyu-mll/glue:stsb:train "
    "--data.validation_files hub:nyu-mll/glue:stsb:validation",
    "task_name MNLI": "--task classification --data.train_files hub:nyu-mll/glue:mnli:train "
    "--data.validation_files hub:nyu-mll/glue:mnli:validation_matched",
    "task_name ner": "--task token-classification",
    "dataset_name imdb": "--data.train_files hub:imdb:train "
    "(held out: 5 %, or --data.validation_files hub:imdb:validation)",
    "train_file train.csv": "--data.train_files train.csv",
    "validation_file dev.csv": "--data.validation_files dev.csv",
    "validation_split_percentage 10": "--data.validation_fraction 0.1",
    "max_seq_length 256": "--data.max_length 256",
    "block_size 1024": "--data.max_length 1024",
    "task_name squad_v2": "--task question-answering",
    "doc_stride 64": "--data.doc_stride 64",
    "n_best_size 5": "--evaluation.n_best 5",
    "max_answer_length 15": "--evaluation.max_answer_length 15",
    "version_2_with_negative": "leave it out (questions without an answer are found in the data)",
    "mlm_probability 0.2": "--data.mask_rate 0.2",
    "text_column_name say": "--data.text_column say",
    "text_column_names one,two": "--data.text_column one --data.pair_column two",
    "label_column_name mood": "--data.label_column mood",
    "line_by_line": "leave it out (a document is cut into windows, and no two are joined)",
    "pad_to_max_length": "leave it out (samples are packed, so that almost no padding is computed)",
    "group_by_length": "leave it out (samples are packed, so that almost no padding is computed)",
    "dataloader_num_workers 4": "leave it out (a thread of each rank prepares the next step)",
    "do_train": "leave it out (every run trains, evaluates and exports)",
    "do_eval True": "leave it out (every run trains, evaluates and exports)",
    "do_predict": "leave it out (afterwards: --predict FILE --model RUN_DIR)",
    "evaluation_strategy epoch": '--evaluation.every "1 epochs"',
    "eval_strategy steps": '--evaluation.every "500 steps"',
    "eval_strategy no": "--evaluation.every null (only at the end)",
    "eval_steps 200": '--evaluation.every "200 steps"',
    "eval_steps 0.1": "--evaluation.every 10%",
    "save_strategy epoch": '--checkpoint.every "1 epochs"',
    "save_steps 200": '--checkpoint.every "200 steps"',
    "save_total_limit 3": "--checkpoint.keep 3",
    "save_total_limit 1": "--checkpoint.keep 2 (one may be damaged by a kill or a full disk)",
    "load_best_model_at_end": "--evaluation.export best",
    "load_best_model_at_end False": "leave it out (off is the default)",
    "metric_for_best_model eval_f1": "--evaluation.metric f1",
    "metric_for_best_model matthews_correlation": "--evaluation.metric matthews",
    "greater_is_better True": "leave it out (each metric is known to be better when higher or lower)",
    "early_stopping_patience 3": "--evaluation.patience 3",
    "resume_from_checkpoint True": "--resume auto",
    "resume_from_checkpoint runs/one": "--resume runs/one",
    "output_dir out": "--run_dir out",
    "overwrite_output_dir": "leave it out (none is overwritten: name a new --run_dir, or --resume auto)",
    "logging_steps 10": "--log.every 10",
    "report_to wandb": "--log.trackers wandb",
    "report_to wandb,tensorboard": "--log.trackers wandb tensorboard",
    "report_to none": "leave it out (none is the default; --log.trackers names those to log to)",
    "run_name first": "--run_dir runs/first (trackers name the run after it)",
    "push_to_hub": "leave it out (name the repository: --log.push_to_hub USER/NAME)",
    "hub_model_id user/name": "--log.push_to_hub user/name",
    "fp16": "accelerate launch --mixed_precision fp16, before train.py",
    "bf16 True": "accelerate launch --mixed_precision bf16, before train.py",
    "fp16 False": "leave it out (off unless the launcher says otherwise)",
    "no_cuda": "--launch.device cpu",
    "torch_compile": "--speed.compile true",
    "gradient_checkpointing True": "--speed.gradient_checkpointing true",
    "deepspeed ds.json": "leave it out (bash launch/deepspeed.sh STAGE, with configs/accelerate/)",
    "local_rank 0": "leave it out (the launcher says it)",
    "training_args.learning_rate 5e-5": "--recipe.lr 5e-5",
    "lr_scheduler_type greedy": "leave it out (--recipe.decay has linear, cosine, wsd and others; see --help)",
    "scheduler cosine": "--recipe.decay cosine",
    "accumulate_grad_batches 4": "--batch.accumulation 4",
    "precision 16": "leave it out (the launcher says it: accelerate launch --mixed_precision bf16 or fp16)",
    "gpus 2": "leave it out (the launcher says it: bash launch/gpus.sh N, or accelerate launch --num_processes N)",
    "num_labels 3": "leave it out (the classes are those of the training files)",
    "hidden_dropout_prob 0.2": "--dropout 0.2",
    "wandb": "--log.trackers wandb",
    "print_shtab bash": "leave it out (there is no completion; --help lists all fields)",
}  # fmt: skip


def refusal(*argv: str) -> str:
    with pytest.raises(UserError) as caught:
        arguments.parse(argv)
    return str(caught.value)


def rewritten(*argv: str) -> list[str]:
    """The words of the whole command in the answer."""
    return whole_command(refusal(*argv))


@pytest.mark.parametrize("given", NAMES)
def test_what_a_name_is_here(given: str) -> None:
    words = shlex.split(f"--{given}")
    assert refusal(*words).splitlines()[0] == f"--{given} is not an option here; instead: {NAMES[given]}"


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_what_is_to_be_written_is_accepted(name: str) -> None:
    """Whatever the answer says parses; none of the names is one that there is."""
    example, rule = OTHER_NAMES[name]
    needs = ["--evaluation.every", "10 steps"] if "patience" in name or "best" in name else []
    of_classes = ("label_smoothing_factor", "metric_for_best_model", "text_column_names")
    of_questions = ("doc_stride", "n_best_size", "max_answer_length")
    task = ["--task", "classification"] if name in of_classes else []
    task = ["--task", "question-answering"] if name in of_questions else task
    rewrite = rule(example, {name: example})
    arguments.parse([*task, *needs, *rewrite.options])
    assert rewrite.options or rewrite.launcher or rewrite.note
    assert name not in commandline.FIELDS


def test_any_value_is_answered() -> None:
    for name, (_, rule) in OTHER_NAMES.items():
        for value in ("", "x", "-1", "1e999", "a,b c"):
            options, launcher, note = rule(value, {name: value})
            assert options or launcher or note, (name, value)
            assert all(isinstance(word, str) for word in (*options, *launcher))


def test_names_that_belong_together() -> None:
    assert rewritten("--adam_beta1", "0.8", "--adam_beta2", "0.98")[3:] == ["--recipe.betas", "0.8", "0.98"]
    words = rewritten("--eval_strategy", "steps", "--eval_steps", "50", "--save_strategy", "no", "--save_steps", "7")
    assert words[3:] == ["--evaluation.every", "50 steps", "--checkpoint.every", "null"]
    assert rewritten("--num_train_epochs", "3", "--max_steps", "10")[3:] == ["--recipe.duration", "10 steps"]
    assert rewritten("--warmup_ratio", "0.1", "--warmup_steps", "9")[3:] == ["--recipe.warmup", "9 steps"]
    assert rewritten("--dataset_name", "wikitext", "--dataset_config_name", "wikitext-2-raw-v1")[3:] == [
        "--data.train_files", "hub:wikitext:wikitext-2-raw-v1:train",
    ]  # fmt: skip


def test_a_batch_size_says_what_the_learning_rate_was_tuned_at(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("--learning_rate", "2e-5", "--per_device_train_batch_size", "16", "--gradient_accumulation_steps", "2")
    batch = ["--batch.global_size", "32", "--recipe.reference_batch_size", "32"]
    assert rewritten(*given)[3:] == ["--recipe.lr", "2e-5", "--batch.per_device", "16", *batch]
    assert "the learning rate is taken to be for 32 samples a step" in refusal(*given)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert rewritten(*given)[-3:] == ["128", "--recipe.reference_batch_size", "128"]
    recipe = ("--config", str(ROOT / "configs" / "finetune_tokens.yaml"))  # says it itself
    assert rewritten(*recipe, *given)[-4:] == ["--batch.per_device", "16", "--batch.accumulation", "2"]


def test_the_command_begins_as_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("--launch.world_size", "2", "--launch.device", "cpu", "--fp16", "--seed", "3")
    assert rewritten(*given)[:5] == ["accelerate", "launch", "--mixed_precision", "fp16", "train.py"]
    monkeypatch.setenv(COMMAND, "bash ../launch/cpu.sh 2")
    assert rewritten(*given) == ["bash", "../launch/cpu.sh", "2", "--seed", "3"]


@pytest.mark.parametrize("name", ["batchsize", "learningrate", "num-trainepochs"])
def test_names_without_underscores_are_known_too(name: str) -> None:
    answer = refusal(f"--{name}", "3").splitlines()[0]
    assert answer.startswith(f"--{name.replace('-', '_')} 3 is not an option here; instead: --")


def test_typos_are_corrected_on_the_way_and_unknown_names_left_out() -> None:
    argv = ("--max_steps", "9", "--recipe.warmpu", "6%", "--zzzzz", "1", "--model", "a b")
    assert refusal(*argv) == (
        "3 options have other names here:\n"
        '  --max_steps 9       ->  --recipe.duration "9 steps"\n'
        "  --recipe.warmpu 6%  ->  no such field; did you mean recipe.warmup?\n"
        "  --zzzzz 1           ->  no such field; see --help\n"
        "the whole command:\n"
        '  accelerate launch train.py --recipe.duration "9 steps" --recipe.warmup 6% --model "a b"'
    )


def test_names_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("num_train_epochs: 3\nadam_beta2: 0.98\nfp16: true\nmodel: mini\n")
    assert refusal("--config", str(path)).splitlines() == [
        f"{path}: num_train_epochs: no such field; write recipe.duration: 3 epochs",
        "  adam_beta2: no such field; write recipe.betas: ['0.9', '0.98']",
        "  fp16: no such field; accelerate launch --mixed_precision fp16, before train.py",
    ]


@pytest.mark.parametrize("given", COMMANDS, ids=["run_glue", "run_mlm", "run_ner"])
def test_a_whole_command_of_an_example_script(given: str) -> None:
    words = rewritten(*shlex.split(given))
    assert words == shlex.split(COMMANDS[given])
    config, options = arguments.parse(words[3:])
    assert config.recipe.reference_batch_size == config.batch.global_size
    assert len(options.base) == 1


def test_the_table_in_the_documentation_is_the_one_of_the_code() -> None:
    """Write what this prints into configs/README.md after a change."""
    rows = []
    for name, (example, rule) in OTHER_NAMES.items():
        rewrite = rule(example, {name: example})
        words = quote(rewrite.options or (rewrite.launcher and ("accelerate", "launch", *rewrite.launcher)))
        note = f" ({rewrite.note})" if words and rewrite.note else rewrite.note
        rows.append(f"| `--{f'{name} {example}'.strip()}` | {f'`{words}`' if words else ''}{note} |")
    print("\n".join(rows))
    page = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    section = page.partition("\n## Coming from the Trainer\n")[2].partition("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("| `--")] == rows
