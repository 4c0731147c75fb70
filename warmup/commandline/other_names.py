"""Options of transformers' Trainer and example scripts, Accelerate and Lightning, and what they are here."""

from __future__ import annotations

from collections.abc import Mapping

from warmup.commandline.translation import (
    OtherName,
    Rewrite,
    Rule,
    is_false,
    length,
    percent,
    to_choice,
    to_field,
    to_fields,
    to_launcher,
    to_nothing,
    to_switch,
)
from warmup.config.tasks import CALLED_ELSEWHERE

_GLUE = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
_METRICS = {"matthews_correlation": "matthews", "spearmanr": "spearman", "overall_f1": "f1"}
_DECAYS = {
    **{name: name for name in ("linear", "cosine", "constant", "polynomial", "inverse_sqrt")},
    "constant_with_warmup": "constant",
    "cosine_with_restarts": "cosine",
    "cosine_with_min_lr": "cosine",
    "warmup_stable_decay": "wsd",
}
_OPTIMIZERS = {
    **{name: "adamw" for name in ("adamw", "adamw_hf", "adamw_torch", "adamw_torch_fused")},
    **{name: name for name in ("adafactor", "rmsprop", "sgd")},
}


def _steps(field: str, strategies: tuple[str, ...]) -> Rule:
    """eval_steps and save_steps, which count only under the strategy `steps`."""

    def rule(value: str, given: Mapping[str, str]) -> Rewrite:
        strategy = next((given[name] for name in strategies if name in given), "steps")
        if strategy != "steps":
            return Rewrite(note=f"the strategy {strategy} does not use it")
        return Rewrite((f"--{field}", length(value)))

    return rule


def _strategy(field: str, steps: str) -> Rule:
    """eval_strategy and save_strategy: epoch, steps (every `steps` of them, 500 by default there), best or no."""

    def rule(value: str, given: Mapping[str, str]) -> Rewrite:
        if value == "steps" and steps in given:
            return Rewrite(note=f"--{field} says it")
        every = {"epoch": "1 epochs", "steps": "500 steps"}.get(value)
        return Rewrite((f"--{field}", every)) if every else Rewrite((f"--{field}", "null"), note="only at the end")

    return rule


def _epochs(value: str, given: Mapping[str, str]) -> Rewrite:
    if any(given.get(name, "-1") != "-1" for name in ("max_steps", "max_train_steps")):
        return Rewrite(note="the number of steps decides, as it does there")
    return Rewrite(("--recipe.duration", length(value, "epochs")))


def _max_steps(value: str, given: Mapping[str, str]) -> Rewrite:
    return Rewrite(note="-1 means no limit") if value == "-1" else Rewrite(("--recipe.duration", length(value)))


def _warmup_ratio(value: str, given: Mapping[str, str]) -> Rewrite:
    if given.get("warmup_steps", "0") != "0":
        return Rewrite(note="the number of steps decides, as it does there")
    return Rewrite(("--recipe.warmup", percent(value)))


def _beta1(value: str, given: Mapping[str, str]) -> Rewrite:
    return Rewrite(("--recipe.betas", value, given.get("adam_beta2", "0.999")))


def _beta2(value: str, given: Mapping[str, str]) -> Rewrite:
    return (
        Rewrite(note="the second of --recipe.betas") if "adam_beta1" in given else _beta1("0.9", {"adam_beta2": value})
    )


def _save_total_limit(value: str, given: Mapping[str, str]) -> Rewrite:
    if value in ("0", "1"):
        return Rewrite(("--checkpoint.keep", "2"), note="one may be damaged by a kill or a full disk")
    return Rewrite(("--checkpoint.keep", value))


def _best_model(value: str, given: Mapping[str, str]) -> Rewrite:
    return Rewrite(note="off is the default") if is_false(value) else Rewrite(("--evaluation.export", "best"))


def _best_metric(value: str, given: Mapping[str, str]) -> Rewrite:
    name = value.removeprefix("eval_")
    return Rewrite(("--evaluation.metric", _METRICS.get(name, name)))


def _resume(value: str, given: Mapping[str, str]) -> Rewrite:
    if is_false(value) and value:
        return Rewrite(note="a run starts anew by default")
    return Rewrite(("--resume", "auto" if value.lower() in ("", "true") else value))


def _report_to(value: str, given: Mapping[str, str]) -> Rewrite:
    if value in ("none", "all", ""):
        return Rewrite(note="none is the default; --log.trackers names those to log to")
    return to_fields("log.trackers")(value, given)


def _run_name(value: str, given: Mapping[str, str]) -> Rewrite:
    if "output_dir" in given:
        return Rewrite(note="trackers name the run after its run directory")
    return Rewrite(("--run_dir", f"runs/{value}"), note="trackers name the run after it")


def _push_to_hub(value: str, given: Mapping[str, str]) -> Rewrite:
    if "hub_model_id" in given or is_false(value):
        return Rewrite(note="--log.push_to_hub USER/NAME says both")
    return Rewrite(note="name the repository: --log.push_to_hub USER/NAME")


def _task_name(value: str, given: Mapping[str, str]) -> Rewrite:
    name = value.lower()
    if name in CALLED_ELSEWHERE:
        return Rewrite(("--task", CALLED_ELSEWHERE[name]))
    if name not in _GLUE:
        return Rewrite(note="--task says what is learned, and --data.train_files from which data")
    task = "regression" if name == "stsb" else "classification"
    validation = "validation_matched" if name == "mnli" else "validation"
    files = f"hub:nyu-mll/glue:{name}"
    return Rewrite(
        ("--task", task, "--data.train_files", f"{files}:train", "--data.validation_files", f"{files}:{validation}")
    )


def _dataset_name(value: str, given: Mapping[str, str]) -> Rewrite:
    configuration = given.get("dataset_config_name")
    name = f"hub:{value}:{configuration}" if configuration else f"hub:{value}"
    return Rewrite(
        ("--data.train_files", f"{name}:train"), note=f"held out: 5 %, or --data.validation_files {name}:validation"
    )


def _split_percentage(value: str, given: Mapping[str, str]) -> Rewrite:
    return Rewrite(("--data.validation_fraction", f"{int(value) / 100:g}" if value.isdigit() else value))


def _text_columns(value: str, given: Mapping[str, str]) -> Rewrite:
    text, *pair = value.replace(",", " ").split() or [""]
    return Rewrite(("--data.text_column", text, *(("--data.pair_column", pair[0]) if pair else ())))


_EVALUATION_STRATEGY = OtherName("epoch", _strategy("evaluation.every", "eval_steps"))
_PACKED = "samples are packed, so that almost no padding is computed"
_RANKS = "the launcher says it: bash launch/gpus.sh N, or accelerate launch --num_processes N"
_PRECISION = "the launcher says it: accelerate launch --mixed_precision bf16 or fp16"
_CPU = to_choice("launch.device", {"": "cpu", "True": "cpu", "true": "cpu"}, "GPUs are used if there are any")
_ALWAYS = "every run trains, evaluates and exports"

OTHER_NAMES: dict[str, OtherName] = {
    # how long, how large, how fast
    "num_train_epochs": OtherName("3", _epochs),
    "epochs": OtherName("3", _epochs),
    "max_epochs": OtherName("3", _epochs),
    "num_epochs": OtherName("3", _epochs),
    "max_steps": OtherName("1000", _max_steps),
    "max_train_steps": OtherName("1000", _max_steps),
    "per_device_train_batch_size": OtherName("32", to_field("batch.per_device")),
    "train_batch_size": OtherName("32", to_field("batch.per_device")),
    "batch_size": OtherName("32", to_field("batch.per_device")),
    "eval_batch_size": OtherName("64", to_field("batch.evaluation")),
    "per_device_eval_batch_size": OtherName("64", to_field("batch.evaluation")),
    "gradient_accumulation_steps": OtherName("4", to_field("batch.accumulation")),
    "accumulate_grad_batches": OtherName("4", to_field("batch.accumulation")),
    "auto_find_batch_size": OtherName("", to_nothing("choose --batch.per_device; the global batch can stay the same")),
    "learning_rate": OtherName("5e-5", to_field("recipe.lr")),
    "lr_scheduler_type": OtherName(
        "cosine", to_choice("recipe.decay", _DECAYS, "--recipe.decay has linear, cosine, wsd and others; see --help")
    ),
    "scheduler": OtherName("cosine", to_choice("recipe.decay", _DECAYS, "--recipe.decay has it; see --help")),
    "warmup_steps": OtherName("500", lambda value, given: Rewrite(("--recipe.warmup", length(value)))),
    "num_warmup_steps": OtherName("500", lambda value, given: Rewrite(("--recipe.warmup", length(value)))),
    "warmup_ratio": OtherName("0.06", _warmup_ratio),
    "optim": OtherName(
        "adamw_torch", to_choice("recipe.optimizer", _OPTIMIZERS, "--recipe.optimizer has adamw, sgd, lamb and others")
    ),
    "adam_beta1": OtherName("0.9", _beta1),
    "adam_beta2": OtherName("0.98", _beta2),
    "adam_epsilon": OtherName("1e-6", to_field("recipe.eps")),
    "weight_decay": OtherName("0.01", to_field("recipe.weight_decay")),
    "max_grad_norm": OtherName("1.0", to_field("recipe.max_grad_norm")),
    "gradient_clip_val": OtherName("1.0", to_field("recipe.max_grad_norm")),
    "label_smoothing_factor": OtherName("0.1", to_field("recipe.label_smoothing")),
    "data_seed": OtherName("1", to_nothing("--seed is that of the order of the samples too")),
    # model and data
    "model_name_or_path": OtherName("bert-base-uncased", to_field("model")),
    "config_name": OtherName("bert-base-uncased", to_nothing("--model takes a size for a new model: tiny to large")),
    "model_type": OtherName("bert", to_nothing("--model takes a size for a new model: tiny to large")),
    "hidden_size": OtherName("256", to_nothing("--model takes a size for a new model: tiny to large")),
    "num_hidden_layers": OtherName("4", to_nothing("--model takes a size for a new model: tiny to large")),
    "hidden_dropout_prob": OtherName("0.2", to_field("dropout")),
    "num_labels": OtherName("3", to_nothing("the classes are those of the training files")),
    "tokenizer_name": OtherName("bert-base-uncased", to_field("data.tokenizer")),
    "task_name": OtherName("sst2", _task_name),
    "dataset_name": OtherName("wikitext", _dataset_name),
    "dataset_config_name": OtherName("wikitext-2-raw-v1", to_nothing("it is a part of hub:NAME:CONFIGURATION:SPLIT")),
    "dataset": OtherName("wikitext", _dataset_name),
    "data": OtherName("train.csv", to_fields("data.train_files")),
    "train_data": OtherName("train.csv", to_fields("data.train_files")),
    "train_file": OtherName("train.csv", to_fields("data.train_files")),
    "validation_file": OtherName("dev.csv", to_fields("data.validation_files")),
    "test_file": OtherName("test.csv", to_nothing("afterwards: --predict FILE --model RUN_DIR")),
    "validation_split_percentage": OtherName("5", _split_percentage),
    "max_seq_length": OtherName("128", to_field("data.max_length")),
    "max_length": OtherName("128", to_field("data.max_length")),
    "block_size": OtherName("1024", to_field("data.max_length")),
    "doc_stride": OtherName("128", to_field("data.doc_stride")),
    "max_answer_length": OtherName("30", to_field("evaluation.max_answer_length")),
    "n_best_size": OtherName("20", to_field("evaluation.n_best")),
    "version_2_with_negative": OtherName("", to_nothing("questions without an answer are found in the data")),
    "null_score_diff_threshold": OtherName("0.0", to_nothing("the one with the best F1 on held-out data is taken")),
    "max_query_length": OtherName("64", to_nothing("questions are never truncated")),
    "mlm_probability": OtherName("0.15", to_field("data.mask_rate")),
    "line_by_line": OtherName("", to_nothing("a document is cut into windows, and no two are joined")),
    "pad_to_max_length": OtherName("", to_nothing(_PACKED)),
    "group_by_length": OtherName("", to_nothing(_PACKED)),
    "text_column_name": OtherName("text", to_field("data.text_column")),
    "text_column_names": OtherName("premise,hypothesis", _text_columns),
    "label_column_name": OtherName("label", to_field("data.label_column")),
    "max_train_samples": OtherName("1000", to_nothing("cut the file itself, as with head; --test is a try")),
    "max_eval_samples": OtherName("1000", to_nothing("cut the file itself, as with head")),
    "overwrite_cache": OtherName("", to_nothing("tokenised data is found by a hash of its content")),
    "preprocessing_num_workers": OtherName("4", to_nothing("data is tokenised by all cores")),
    "dataloader_num_workers": OtherName("4", to_nothing("a thread of each rank prepares the next step")),
    "num_workers": OtherName("4", to_nothing("a thread of each rank prepares the next step")),
    "dataloader_drop_last": OtherName("", to_nothing("every step has the same number of samples")),
    "dataloader_pin_memory": OtherName("", to_nothing("memory is pinned on GPUs")),
    "remove_unused_columns": OtherName("False", to_nothing("the columns that are read are found by their names")),
    "return_entity_level_metrics": OtherName("", to_nothing("entities are counted where the tags are of entities")),
    # what is done when
    "do_train": OtherName("", to_nothing(_ALWAYS)),
    "do_eval": OtherName("", to_nothing(_ALWAYS)),
    "do_predict": OtherName("", to_nothing("afterwards: --predict FILE --model RUN_DIR")),
    "evaluation_strategy": _EVALUATION_STRATEGY,
    "eval_strategy": _EVALUATION_STRATEGY,
    "eval_steps": OtherName("500", _steps("evaluation.every", ("eval_strategy", "evaluation_strategy"))),
    "val_check_interval": OtherName("500", _steps("evaluation.every", ())),
    "save_strategy": OtherName("epoch", _strategy("checkpoint.every", "save_steps")),
    "save_steps": OtherName("500", _steps("checkpoint.every", ("save_strategy",))),
    "checkpointing_steps": OtherName("500", _steps("checkpoint.every", ())),
    "save_total_limit": OtherName("3", _save_total_limit),
    "load_best_model_at_end": OtherName("", _best_model),
    "metric_for_best_model": OtherName("eval_f1", _best_metric),
    "greater_is_better": OtherName("True", to_nothing("each metric is known to be better when higher or lower")),
    "early_stopping_patience": OtherName("3", to_field("evaluation.patience")),
    "resume_from_checkpoint": OtherName("True", _resume),
    "ignore_data_skip": OtherName("", to_nothing("the position in the data is a number: nothing is read again")),
    # where it goes
    "output_dir": OtherName("out", to_field("run_dir")),
    "checkpoint_dir": OtherName("out", to_nothing("checkpoints are in --run_dir; --resume goes on from them")),
    "overwrite_output_dir": OtherName("", to_nothing("none is overwritten: name a new --run_dir, or --resume auto")),
    "logging_dir": OtherName("logs", to_nothing("everything is written to --run_dir")),
    "log_level": OtherName("info", to_nothing("--traceback shows more of an error")),
    "logging_steps": OtherName("10", to_field("log.every")),
    "logging_strategy": OtherName("steps", to_nothing("--log.every counts steps")),
    "report_to": OtherName("wandb", _report_to),
    "wandb": OtherName("", lambda value, given: Rewrite(("--log.trackers", "wandb"))),
    "with_tracking": OtherName("", to_nothing("--log.trackers names those to log to")),
    "run_name": OtherName("first", _run_name),
    "push_to_hub": OtherName("", _push_to_hub),
    "hub_model_id": OtherName("user/name", to_field("log.push_to_hub")),
    "hub_token": OtherName("TOKEN", to_nothing("hf auth login, or HF_TOKEN in the environment")),
    # on which hardware
    "fp16": OtherName("", to_launcher("mixed_precision", "fp16")),
    "bf16": OtherName("", to_launcher("mixed_precision", "bf16")),
    "mixed_precision": OtherName("bf16", to_launcher("mixed_precision")),
    "num_processes": OtherName("2", to_launcher("num_processes")),
    "precision": OtherName("bf16", to_nothing(_PRECISION)),
    "gpus": OtherName("2", to_nothing(_RANKS)),
    "n_gpu": OtherName("2", to_nothing(_RANKS)),
    "devices": OtherName("2", to_nothing(_RANKS)),
    "accelerator": OtherName("gpu", to_nothing("GPUs are used if there are any; --launch.device cpu")),
    "config_file": OtherName("accelerate.yaml", to_launcher("config_file")),
    "tf32": OtherName("True", to_nothing("it is on where bf16 is not used")),
    "use_cpu": OtherName("", _CPU),
    "no_cuda": OtherName("", _CPU),
    "torch_compile": OtherName("", to_switch("speed.compile")),
    "gradient_checkpointing": OtherName("", to_switch("speed.gradient_checkpointing")),
    "deepspeed": OtherName("ds_config.json", to_nothing("bash launch/deepspeed.sh STAGE, with configs/accelerate/")),
    "fsdp": OtherName("full_shard", to_nothing("accelerate launch --config_file configs/accelerate/fsdp2.yaml")),
    "local_rank": OtherName("0", to_nothing("the launcher says it")),
    "ddp_find_unused_parameters": OtherName("False", to_nothing("every weight is used")),
    "print_shtab": OtherName("bash", to_nothing("there is no completion; --help lists all fields")),
}  # fmt: skip
"""By name, with underscores. What is the same here, such as `seed`, is not among them."""
