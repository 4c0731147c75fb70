"""A step on a real GPU: what makes the host wait, whether the GPU idles, and which kernels take its time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

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

_WHO_IS_LATE = """
import time
from warmup.training.engines.ddp import DDPEngine
update, waits, idle = DDPEngine.update, [], []
def watched(self, counts):
    if torch.cuda.is_available():
        idle.append(torch.cuda.current_stream().query())
        began = time.perf_counter(); torch.cuda.synchronize(); waits.append(time.perf_counter() - began)
    else:
        idle.append(True); waits.append(0.0)
    if len(waits) == 60:
        kept = sorted(waits[20:])
        print("LATE", kept[20] * 1e3, sum(idle[20:]), file=sys.stderr)
    return update(self, counts)
DDPEngine.update = watched
"""

_PROFILE = """
import time
from torch.profiler import ProfilerActivity, profile
from warmup.training.run.train_step import TrainStep
step, gpu, now = TrainStep._step, torch.cuda.is_available(), {}
def watched(self):
    if self.clock.step == 30:
        now["profile"] = profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]).__enter__()
        now["began"] = time.perf_counter()
    result = step(self)
    if self.clock.step == 40:
        if gpu: torch.cuda.synchronize()
        wall = time.perf_counter() - now["began"]; now["profile"].__exit__(None, None, None)
        rows = now["profile"].key_averages()
        device = [r for r in rows if str(r.device_type).endswith("CUDA")] if gpu else rows
        busy = sum(r.self_device_time_total if gpu else r.self_cpu_time_total for r in device)
        print("PROFILE", wall * 100, busy / 1e4, sum(r.count for r in device) / 10, file=sys.stderr)
        kind = "cuda" if gpu else "cpu"
        print(rows.table(sort_by=f"self_{kind}_time_total", row_limit=30, max_name_column_width=70), file=sys.stderr)
    return result
TrainStep._step = watched
"""
PREDICTED_MS = {64: 24, 256: 75}


def test_the_host_waits_once_in_a_step(train: Callable, device: str) -> None:
    if device != "cuda":
        pytest.skip("only CUDA tells")
    run = train("--log.every", 100, steps=30, before=_COUNT_WAITS)
    assert run.said("WAITS") == "{'ddp.py:update': 10}"


@pytest.mark.parametrize("samples", [64, 256])
def test_who_is_late(samples: int, train: Callable) -> None:
    """Predicted: at 64 samples the host is nearly late, at 256 the GPU is never idle."""
    run = train("--batch.per_device", samples, "--log.every", 100, steps=62, before=_WHO_IS_LATE)
    wait, idle = map(float, run.said("LATE").split())
    print(f"\nPROBE {samples} samples: the host waits for the GPU {wait:.1f} ms a step; idle first in {idle:.0f} of 40")


@pytest.mark.parametrize("samples", [64, 256])
def test_where_the_time_of_a_step_goes(samples: int, train: Callable) -> None:
    run = train("--batch.per_device", samples, "--log.every", 100, steps=42, before=_PROFILE)
    wall, busy, count = map(float, run.said("PROFILE").split())
    print(
        f"\nPROBE {samples} samples: {wall:.1f} ms a step, busy for {busy:.1f} of them, {count:.0f} kernels and copies"
    )
    print(f"      (predicted: {PREDICTED_MS[samples]} ms, about 1,100 kernels)")
    print(run.stderr[run.stderr.index("PROFILE") :])
