"""train.py on a GPU that does not exist: no error of devices or types, and the host waits once in a step.

Tensors are fake: they have shapes, types and a device, and no values. See fake_gpu.py.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import WORDS
from model_families import small_model
from transformers import AutoModelForMaskedLM, BertTokenizerFast

from warmup.config.tasks import TASKS
from warmup.training.tasks import REGISTRY

HERE = Path(__file__).parent
STEP = ["tolist at engines/ddp.py"]
EVALUATION = ["copy cpu to cuda at run/evaluate.py"] + ["copy cuda to cpu at run/evaluate.py"] * 2
PREDICTION = ["copy cuda to cpu at predict/predict.py"]
LAYOUTS = {
    "varlen": ("bf16", [], "varlen=True, static_max_length=0"),
    "mask": ("bf16", ["--speed.attention", "mask"], "packed=True, causal=(True|False), varlen=False"),
    "padded": ("fp16", ["--speed.packing", "false"], "rows=True, packed=False"),
    "static": ("bf16", ["--speed.compile", "true"], "varlen=True, static_max_length=[1-9]"),
    "static mask": ("no", ["--speed.compile", "true"], "varlen=False, static_max_length=[1-9]"),
    "whole": ("bf16", ["--speed.masked_only", "false"], "logits='(all|positions)'"),
    "recomputed": ("bf16", ["--speed.gradient_checkpointing", "true"], ""),
}
"""Precision, options and what the layout then is."""
FAMILIES = ("roformer", "modernbert", "distilbert", "albert", "mpnet", "deberta", "esm", "mobilebert")
"""Some are packed, the others padded."""
UNALIGNED = ("deberta", "mobilebert")
"""Families whose output layer is not called as a module, and multiplies by the vocabulary as it is."""
OPTIMIZERS = ("adam", "rmsprop", "lamb")
"""Besides AdamW. Adafactor reads the device, and torch has no fused SGD for tensors without values."""
QUICK = [
    *((task, "varlen") for task in REGISTRY),
    *(("mlm", kind) for kind in ("mask", "padded", "static", "roformer", "modernbert")),
]
SLOW = [(task, layout) for task in REGISTRY for layout in LAYOUTS if (task, layout) not in QUICK]
SLOW = [(task, layout) for task, layout in SLOW if task != "clm" or "static" not in layout]  # decoders are not compiled
SLOW += [("mlm", family) for family in FAMILIES if ("mlm", family) not in QUICK]
SLOW += [("mlm", optimizer) for optimizer in OPTIMIZERS]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The device, compiled."""
    if torch.version.cuda or torch.version.hip:
        pytest.skip("this PyTorch is built for real GPUs, which the probes try")
    if not (compiler := shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("there is no C++ compiler")
    built, root = tmp_path_factory.mktemp("device") / "device.so", Path(torch.__file__).parent
    include, libraries = f"-I{root / 'include'}", [f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}"]
    command = [compiler, "-std=c++20", "-shared", "-fPIC", include, HERE / "device.cpp", "-o", built, *libraries]
    done = subprocess.run([*command, "-ltorch_cpu", "-lc10"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return built


def case(request: pytest.FixtureRequest, task: str, kind: str, folder: Path) -> tuple[str, list[str], str | None]:
    """A line of the input of fake_gpu.py."""
    argv = list(request.getfixturevalue(task.replace("-", "_")))
    precision, options, _ = LAYOUTS.get(kind, ("bf16", [], ""))
    few = "32" if "--data.validation_files" in argv else "8"  # of what is held out, in some micro-batches
    argv += ["--batch.global_size", "32", "--batch.per_device", "16", "--batch.evaluation", few, *options]
    if kind in OPTIMIZERS:
        argv += ["--recipe.optimizer", kind, "--recipe.scaling", "none", "--recipe.weight_decay", "0"]
    if kind in FAMILIES:
        small_model(AutoModelForMaskedLM, kind).save_pretrained(folder / kind)
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
        BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder / kind)
        argv += ["--model", str(folder / kind)]
    if TASKS[task].no_prediction:
        return precision, argv, None
    if "--data.validation_files" in argv:
        return precision, argv, argv[argv.index("--data.validation_files") + 1]
    masked = folder / "masked.txt"
    masked.write_text("".join(f"{word} [MASK] {word}\n" for word in WORDS))
    return precision, argv, str(masked)


def run_cases(request: pytest.FixtureRequest, names: list[tuple[str, str]], folder: Path) -> dict[tuple, dict]:
    """The results of each."""
    lines = [json.dumps(case(request, *name, folder)) for name in names]
    command = [sys.executable, str(HERE / "fake_gpu.py"), str(request.getfixturevalue("library"))]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, timeout=560)
    found = [json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert len(found) == len(names), done.stderr[-3000:]
    return dict(zip(names, found, strict=True))


@pytest.fixture(scope="module")
def quick(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple, dict]:
    return run_cases(request, QUICK, tmp_path_factory.mktemp("quick"))


@pytest.fixture(scope="module")
def slow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple, dict]:
    return run_cases(request, SLOW, tmp_path_factory.mktemp("slow"))


def check(name: tuple[str, str], result: dict) -> None:
    """Two steps, an evaluation and a prediction, in which the host waits where it is meant to and nowhere else."""
    assert "error" not in result, result["error"]
    assert result["without gradient"] == []
    assert result["order"] == ["backward", "prepare", "backward", "wait"]  # the thread holds up no first kernel
    assert result["stop checks"] == math.ceil(result["evaluation batches"] / 32)
    if name[0] in ("mlm", "clm") and name[1] not in UNALIGNED:
        vocabulary = result["vocabulary"]
        assert vocabulary % 64 and vocabulary not in result["sizes"] and -(-vocabulary // 64) * 64 in result["sizes"]
    predicts = not TASKS[name[0]].no_prediction
    expected = {"step": STEP, "evaluation": EVALUATION, "prediction": PREDICTION if predicts else []}
    for phase, reads in expected.items():
        assert [re.sub(r":\d+$", "", read) for read in result.get(phase, [])] == reads, phase
    if name[1] in LAYOUTS:
        assert name == ("clm", "varlen") or re.search(LAYOUTS[name[1]][2], result["layout"]), result["layout"]


@pytest.mark.parametrize("name", QUICK, ids=" ".join)
def test_one_read_in_a_step(name: tuple[str, str], quick: dict) -> None:
    check(name, quick[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW, ids=" ".join)
def test_one_read_in_a_step_in_every_layout(name: tuple[str, str], slow: dict) -> None:
    check(name, slow[name])
