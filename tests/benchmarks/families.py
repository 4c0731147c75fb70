"""How much faster families of encoders are packed than padded, on texts as short as SST-2's phrases.

    python tests/benchmarks/families.py [--families distilbert,deberta-v2] [--rounds 7]

Forward and backward passes of classifiers with random weights, 4 layers, 256 wide, dropout off, fp32, one thread:
steps of 32 texts whose lengths are drawn as 3 + a geometric number of mean 10, at most 64. Packed and padded take
turns; shown are the medians of the ratios of their processor times within a turn, the smallest and the largest one, and
how much of a padded and of a packed batch is padding. "dealt" is what a model without packing gets: several passes of
texts of about one length.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from model_families import small_model  # noqa: E402
from transformers import AutoModelForSequenceClassification, PreTrainedModel  # noqa: E402

from warmup.training.data import order  # noqa: E402
from warmup.training.data.batching.layout import lay_out  # noqa: E402
from warmup.training.data.batching.micro_batch import MicroBatch, sequence_targets, to_device  # noqa: E402
from warmup.training.models.input_layout import InputLayout  # noqa: E402
from warmup.training.models.partial_forward import install_partial_forward  # noqa: E402
from warmup.training.tasks.losses import cross_entropy_sum  # noqa: E402

SIZE = dict(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024, hidden_dim=1024)
SIZE |= dict(
    dim=256, n_layers=4, embedding_size=256, emb_dim=256, max_position_embeddings=130, attention_window=[32] * 4
)
CHANGES = {
    "deberta-v2": dict(relative_attention=True, position_buckets=32, pos_att_type=["c2p", "p2c"], share_att_key=True),
    "eurobert": dict(classifier_pooling="bos", num_key_value_heads=4),
}
PADDED = InputLayout(head="sequence")
FAMILIES = ("distilbert", "albert", "mpnet", "deberta-v2", "modernbert", "eurobert", "squeezebert", "roformer")


def texts(lengths: np.ndarray, padding_id: int) -> MicroBatch:
    mask_BT = torch.arange(int(lengths.max())) < torch.from_numpy(lengths)[:, None]
    ids_BT = torch.where(mask_BT, torch.randint(5, 200, mask_BT.shape), padding_id)
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT.long()}
    return sequence_targets(inputs, np.arange(len(lengths)) % 2)


def seconds(model: PreTrainedModel, batches: list[MicroBatch]) -> float:
    start = time.process_time()
    for batch in batches:
        inputs, targets = to_device(batch, torch.device("cpu"))
        cross_entropy_sum(model(**inputs).logits, targets).backward()
    return time.process_time() - start


def batches_of(lengths: np.ndarray, layout: InputLayout, padding_id: int, dealt: bool) -> list[MicroBatch]:
    parts = order.deal_by_length(lengths, 1) if dealt else [np.arange(len(lengths))]
    return [lay_out(texts(lengths[part], padding_id), layout) for part in parts]


def padding(batches: list[MicroBatch]) -> float:
    return 1 - sum(batch.token_count for batch in batches) / sum(batch.padded_tokens for batch in batches)


def compare(family: str, rounds: int) -> str:
    """A line of the table."""
    padded_model, model = (
        small_model(AutoModelForSequenceClassification, family, **SIZE | CHANGES.get(family, {})).train()
        for _ in range(2)
    )
    for module in (*padded_model.modules(), *model.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    layout, padding_id = install_partial_forward(model, "sequence", True, True), model.config.pad_token_id or 0
    random, ratios = np.random.default_rng(0), []
    for turn in range(rounds + 1):
        steps = [np.minimum(3 + random.geometric(0.1, 32), 64) for _ in range(4)]
        padded = [batch for step in steps for batch in batches_of(step, PADDED, padding_id, dealt=False)]
        ours = [batch for step in steps for batch in batches_of(step, layout, padding_id, not layout.rows)]
        ratio = seconds(padded_model, padded) / seconds(model, ours)
        if turn:  # the first one warms up
            ratios.append(ratio)
    return (
        f"{family:14} {'packed' if layout.packed else 'dealt':7} {statistics.median(ratios):5.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})   padding {padding(padded):4.0%} -> {padding(ours):4.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"one thread of {os.cpu_count()} cores, PyTorch {torch.__version__}")
    for family in options.families.split(","):
        print(compare(family, options.rounds), flush=True)


if __name__ == "__main__":
    main()
