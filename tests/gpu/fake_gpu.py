"""Steps, an evaluation and a prediction of train.py on a GPU that does not exist. Run by test_fake_gpu.py.

Usage: python tests/gpu/fake_gpu.py LIBRARY < cases

LIBRARY is made of device.cpp. It must be loaded before torch, which looks for a device once, so this is a process of
its own. Each line of the input is a case, as JSON: [precision, arguments of train.py, a file to predict or null]. Its
results are a line of the output: what the host waited for in the second step, in an evaluation and in a prediction,
which weights got no gradient, the vocabulary and the sizes of products of matrices; or the error.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ctypes.CDLL(sys.argv[1])
ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from accelerate.state import AcceleratorState  # noqa: E402
from equal_passes import Products  # noqa: E402
from host_reads import HostReads  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from transformers.utils import import_utils  # noqa: E402

from warmup.training.data.batching.prefetcher import RankBatch  # noqa: E402
from warmup.training.distributed.watchdog import Watchdog  # noqa: E402
from warmup.training.models import compile as compiling  # noqa: E402
from warmup.training.models import varlen_attention  # noqa: E402
from warmup.training.predict import inputs, predict  # noqa: E402
from warmup.training.run import arguments, assembly, setup  # noqa: E402
from warmup.training.run.evaluate import Evaluator  # noqa: E402
from warmup.training.run.train_step import TrainStep  # noqa: E402

GPU = torch.device("cuda", 0)
FAKE = FakeTensorMode(allow_non_fake_inputs=True)
STOP_CHECKS: list[None] = []
"""An entry for each exchange of whether to stop, which on several ranks waits for the GPU."""


def pretend() -> None:
    """Let torch.cuda say that there is an H100, and models be built on it without memory for their weights."""
    FakeTensorMode.avoid_device_init = True
    answers: dict[str, Any] = dict(
        is_available=True, device_count=1, current_device=0, is_bf16_supported=True, get_device_capability=(9, 0),
        get_device_name="NVIDIA H100 80GB HBM3", _lazy_init=None, set_device=None, manual_seed_all=None,
    )  # fmt: skip
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
    import_utils.is_fake_tensor = lambda tensor: False  # transformers reads no fake tensor, and would read a real one
    varlen_attention._why_inaccurate = lambda *args: None
    RankBatch.token_ids = unneeded
    before(Evaluator, "_any_stop_requested", lambda: STOP_CHECKS.append(None))
    setup.check_compile = assembly.compile_layers = lambda *args: None  # the layout of compiled layers, without them
    compiling.eager = lambda *args: torch.no_grad()
    build_optimizer, build_engine = assembly.build_optimizer, assembly.build_engine

    def optimizer_of(model: torch.nn.Module, *rest: Any) -> Any:
        move(model)
        with FAKE:
            return build_optimizer(model, *rest)

    def engine_of(*args: Any) -> Any:
        with FAKE:
            return build_engine(*args)

    assembly.build_optimizer, assembly.build_engine = optimizer_of, engine_of


def unneeded(rank_batch: RankBatch) -> None:
    raise AssertionError("the ids are sorted in each step, and only CPU ranks need them")


def move(model: torch.nn.Module) -> None:
    """Put fake weights on the GPU in the place of a model's own, before an optimizer or an engine has seen them."""
    moved: dict[torch.Tensor, torch.Tensor] = {}
    with FAKE:
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and tensor not in moved:
                        fake = tensor.detach().to(GPU)
                        is_weight = isinstance(tensor, torch.nn.Parameter)
                        moved[tensor] = torch.nn.Parameter(fake, tensor.requires_grad) if is_weight else fake
                    tensors[name] = moved.get(tensor)
    model.to = lambda *args, **kwargs: model


def run_case(argv: list[str], file: str | None) -> dict[str, Any]:
    """See above."""
    AcceleratorState._reset_state(reset_partial_state=True)
    config, options = arguments.parse(argv)
    launched = setup.start(config, options)
    spec = setup.plan_run(config, launched)
    built = assembly.build(spec, launched.accelerator)
    objective = spec.task.objective(spec.data.tokenizer, spec.data.labels, spec.data.train)
    uncounted = replace(objective, combine=lambda results, samples: results, metrics=lambda *results: {})
    with tempfile.TemporaryDirectory() as folder:
        step = assembly.assemble(spec, built, objective, launched, Path(folder))
        evaluator = Evaluator(
            model=built.engine.unwrapped_model, objective=uncounted,
            layout=built.layout, batch_size=config.batch.evaluation, accelerator=launched.accelerator,
        )  # fmt: skip
        result = {"layout": str(built.layout)} | train_two_steps(step)
        with FAKE, HostReads() as reads:
            evaluator.evaluate(spec.data.validation)
            reads.found.clear()  # the first time, tables are copied to the GPU
            STOP_CHECKS.clear()
            evaluator.evaluate(spec.data.validation)
        batches = -(-len(spec.data.validation) // config.batch.evaluation)
        result |= {"evaluation": reads.found, "stop checks": len(STOP_CHECKS), "evaluation batches": batches}
        if file:
            result["prediction"] = predicted(config, spec, built, launched.accelerator, file, Path(folder))
    return result


def train_two_steps(step: TrainStep) -> dict[str, Any]:
    """Weights without a gradient at the end of a backward pass, and of the second step what the host waited for, the
    order in which it launched the passes, had the next batch prepared and waited, and the sizes of products.
    """
    model, without, order = step.engine.unwrapped_model, [], []

    def note_gradients() -> None:
        without[:] = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        order.append("wait")

    before(step.engine, "update", note_gradients)
    before(step.engine, "backward", lambda: order.append("backward"))
    before(step.prefetcher._thread, "submit", lambda: order.append("prepare"))
    step.engine.model.train()
    with FAKE, HostReads() as reads:
        step._step()
        reads.found.clear()
        order.clear()
        with Products() as products:
            step._step()
    found = {"step": reads.found, "without gradient": without, "order": order}
    return found | {"vocabulary": model.config.vocab_size, "sizes": list(products.sizes)}


def before(owner: Any, name: str, note: Callable[[], object]) -> None:
    """Call `note` before each call of a method."""
    method = getattr(owner, name)

    def noted(*args: Any, **kwargs: Any) -> Any:
        note()
        return method(*args, **kwargs)

    setattr(owner, name, noted)


def predicted(config: Any, spec: Any, built: Any, accelerator: Any, file: str, folder: Path) -> list[str]:
    """What the host waited for."""
    predictor = spec.task.predictor(spec.data.tokenizer, spec.data.labels, {})
    tokenized = inputs.read_inputs([file], config, spec.data.tokenizer, predictor, folder)
    trained = predict.TrainedModel(built.engine.unwrapped_model.eval(), built.layout, spec.data.tokenizer, predictor)
    compute = inspect.unwrap(predict._compute)  # fake tensors know no inference mode
    with FAKE, HostReads() as reads, torch.no_grad():
        compute(trained, inputs.load_inputs(tokenized), config.batch.evaluation, accelerator, Watchdog(20, print))
    return reads.found


def main() -> None:
    pretend()
    for line in sys.stdin:
        precision, argv, file = json.loads(line)
        os.environ["ACCELERATE_MIXED_PRECISION"] = precision
        try:
            result = run_case(argv, file)
        except BaseException:
            result = {"error": traceback.format_exc()[:6000]}
        print("RESULT", json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
