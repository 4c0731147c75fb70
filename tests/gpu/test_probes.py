"""What only a real GPU can tell: the kernel's numbers, the same training in every layout, waits and speed.

    python -m pytest tests/gpu/test_probes.py -s

takes one GPU since Ampere and some minutes, and prints what was measured. Elsewhere everything here is skipped.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import WORDS
from harness import ROOT

from warmup.training.models import varlen_attention
from warmup.training.models.varlen_attention import SequenceBounds

_AVAILABLE = torch.cuda.is_available()
_IS_AMPERE = _AVAILABLE and torch.cuda.get_device_capability() >= (8, 0)
pytestmark = pytest.mark.skipif(
    not _IS_AMPERE, reason="the GPU is older than Ampere" if _AVAILABLE else "there is no GPU"
)
HEADS, WIDTH = 12, 64
LAYOUTS = {
    "mask": ("bf16", "--speed.attention", "mask"),
    "padded": ("bf16", "--speed.packing", "false"),
    "compiled": ("bf16", "--speed.compile", "true"),
    "fp16": ("fp16",),
    "fp32": ("no",),
    "CPU": ("no", "--launch.device", "cpu"),
}


def packed_heads() -> tuple[list[torch.Tensor], SequenceBounds]:
    """Query, key and value (N, H, K) of 64 samples of up to 128 tokens, and where these begin."""
    torch.manual_seed(0)
    lengths = torch.randint(1, 129, (64,))
    size = (int(lengths.sum()), HEADS, WIDTH)
    heads = [torch.randn(size, device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in range(3)]
    cu_seqlens = varlen_attention._cu_seqlens(tuple(lengths.tolist())).cuda()
    return heads, SequenceBounds(cu_seqlens, cu_seqlens, 128)


@pytest.mark.parametrize("compiled", [False, True])
def test_the_kernel_passes_its_own_check(compiled: bool) -> None:
    assert varlen_attention.why_unsupported(torch.device("cuda", 0), "bf16", HEADS, WIDTH, compiled) is None


def test_the_kernels_numbers() -> None:
    (query, key, value), bounds = packed_heads()
    output = varlen_attention.kernel(query, key, value, bounds, 0.0).double()
    wide = (tensor.detach().double() for tensor in (query, key, value))
    expected = varlen_attention.masked_attention(*wide, bounds, 0.0)
    assert float((output - expected).norm() / expected.norm()) < 1e-2  # bf16 has 8 bits


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_the_kernels_dropout(dropout: float) -> None:
    """A function of the seed; and backward drops what forward dropped: the output is linear in the values, so that its
    product with any tensor is that of the values with their gradient.
    """
    (query, key, value), bounds = packed_heads()
    factor = torch.randn_like(query).float()
    outputs = []
    for _ in range(2):
        torch.manual_seed(7)
        outputs.append(varlen_attention.kernel(query, key, value, bounds, dropout))
    assert torch.equal(*outputs)
    products = outputs[1].float() * factor
    (gradient,) = torch.autograd.grad(products.sum(), value)
    difference = products.sum() - (gradient.float() * value.float()).sum()
    assert float(difference.abs() / products.abs().sum()) < 2e-3


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of thousands of words, so that samples have 128 tokens."""
    random_, path = random.Random(0), tmp_path_factory.mktemp("text") / "documents.txt"
    path.write_text("".join(" ".join(random_.choices(WORDS, k=5000)) + "\n" for _ in range(300)))
    return path


def trained(folder: Path, text: Path, precision: str, *options: object, before: str = "") -> tuple[list[dict], str]:
    """The log's lines of a run without dropout, and what it wrote to stderr. `before` is executed first."""
    words = ["--task", "mlm", "--config", ROOT / "tests" / "defaults.yaml", "--data.train_files", text, "--dropout", 0]
    words += ["--data.vocab_size", 200, "--data.max_length", 128, "--log.every", 1, "--model", "small"]
    words += ["--recipe.warmup", "10 steps", "--recipe.reference_batch_size", 32, "--run_dir", folder, *options]
    code = f"import sys, torch\n{before}\nimport train\nsys.exit(train.main(sys.argv[1:]))"
    env = {**os.environ, "ACCELERATE_MIXED_PRECISION": precision, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], env=env, cwd=ROOT, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"], done.stderr


@pytest.fixture(scope="module")
def reference(text: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return trained(tmp_path_factory.mktemp("varlen") / "run", text, "bf16", "--recipe.duration", "20 steps")[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_training_in_every_layout(name: str, reference: list[dict], text: Path, tmp_path: Path) -> None:
    precision, *options = LAYOUTS[name]
    lines, _ = trained(tmp_path / "run", text, precision, "--recipe.duration", "20 steps", *options)
    ours, theirs = ([line["loss"] for line in run] for run in (lines, reference))
    print(f"\n{name}: loss after 20 steps {ours[-1]:.5f}, of variable length {theirs[-1]:.5f}")
    assert ours == pytest.approx(theirs, rel=1e-2)


_COUNT_WAITS = """
import collections, traceback, warnings
from warmup.training.run.train_step import TrainStep
step, found = TrainStep._step, collections.Counter()
def note(message, *rest, **more):
    if "synchroniz" in str(message):
        frame = [f for f in traceback.extract_stack() if "/warmup/" in f.filename][-1]
        found[f"{frame.filename.rsplit('/', 1)[1]}:{frame.name}"] += 1
def watched(self):
    if self.clock.step == 10:
        warnings.simplefilter("always"); warnings.showwarning = note
    torch.cuda.set_sync_debug_mode("warn" if 10 <= self.clock.step < 20 else "default")
    result = step(self)
    torch.cuda.set_sync_debug_mode("default")
    if self.clock.step == 20:
        print("WAITS", dict(found), file=sys.stderr)
    return result
TrainStep._step = watched
"""


def test_the_host_waits_once_in_a_step(text: Path, tmp_path: Path) -> None:
    _, stderr = trained(tmp_path / "run", text, "bf16", "--recipe.duration", "30 steps", before=_COUNT_WAITS)
    assert "WAITS {'ddp.py:update': 10}" in stderr, [line for line in stderr.splitlines() if "WAITS" in line]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("samples", [64, 256])
def test_how_fast_it_is(samples: int, compiled: bool, text: Path, tmp_path: Path) -> None:
    """bert-base, sequences of 128: prints tokens per second without padding, and the share of the device's peak."""
    options = ["--model", "base", "--batch.per_device", samples, "--recipe.duration", "60 steps", "--log.every", 20]
    lines, _ = trained(tmp_path / "run", text, "bf16", *options, "--speed.compile", str(compiled).lower())
    last = lines[-1]
    print(f"\n{samples} samples, compiled {compiled}: {last['tokens_per_second']:,.0f} tokens/s, MFU {last['mfu']}")
    assert last["tokens_per_second"] > 0 and last["data_wait_share"] < 0.05
