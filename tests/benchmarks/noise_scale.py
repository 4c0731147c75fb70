"""What measuring the gradient noise scale costs. Prints a table.

    python tests/benchmarks/noise_scale.py

Forward and backward passes of masked language models of several sizes, one thread, with and without the norms of a
micro-batch's gradient, in turns; shown are the medians of the processor times within a turn, and of what the norms add
to a step: they are taken in one step of several.
"""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import torch  # noqa: E402
from transformers import BertConfig, BertForMaskedLM  # noqa: E402

from warmup.noise_scale import EVERY  # noqa: E402
from warmup.training.engines.part_norms import PartNorms  # noqa: E402

SIZES = {"tiny, vocabulary 8,000": (8000, 128, 2), "6 layers, 384 wide, vocabulary 30,522": (30522, 384, 6)}
TURNS = 21


def seconds(model: BertForMaskedLM, ids: torch.Tensor, norms: PartNorms | None) -> float:
    start = time.process_time()
    with norms.part(1) if norms else nullcontext():
        model(input_ids=ids).logits.square().mean().backward()
    if norms:
        norms.over_ranks()
    spent = time.process_time() - start
    model.zero_grad()
    return spent


def main() -> None:
    torch.set_num_threads(1)
    for name, (vocabulary, width, layers) in SIZES.items():
        sizes = dict(hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width)
        model = BertForMaskedLM(BertConfig(vocab_size=vocabulary, num_attention_heads=width // 64, **sizes))
        ids = torch.randint(5, vocabulary, (8, 128))
        seconds(model, ids, None)  # warms up
        pairs = [(seconds(model, ids, None), seconds(model, ids, PartNorms(model))) for _ in range(TURNS)]
        added = statistics.median(on / off - 1 for off, on in pairs)
        off = statistics.median(off for off, _ in pairs)
        print(
            f"{name}: {1000 * off:.0f} ms for a micro-batch of 8 x 128 tokens, {100 * added:.1f} % more where it is "
            f"measured ({100 * min(on / off - 1 for off, on in pairs):.1f} to "
            f"{100 * max(on / off - 1 for off, on in pairs):.1f}), {100 * added / EVERY:.2f} % on average"
        )


if __name__ == "__main__":
    main()
