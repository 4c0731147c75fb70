"""Published recipes by name, each with its source. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from warmup.config.recipe import Recipe
from warmup.config.run import Batch


@dataclass(frozen=True)
class Preset:
    """A published recipe."""

    recipe: Recipe
    source: str
    """Where it was published, and how this recipe differs."""
    batch: Batch = field(default_factory=Batch)
    """The batch that one device had, if the source says so."""
    num_samples: int | None = None
    """Samples of the training set, for durations in epochs."""


_BERT = Recipe(
    optimizer="adamw",
    lr=1e-4,
    reference_batch_size=256,
    scaling="linear",
    warmup="10000 steps",
    decay="linear",
    duration="1000000 steps",
    weight_decay=0.01,
    betas=(0.9, 0.999),
    eps=1e-6,
    max_grad_norm=1.0,
)
_LAMB = Recipe(
    optimizer="lamb",
    lr=6.25e-4,  # 5e-3 / sqrt(32768 / 512)
    reference_batch_size=512,
    scaling="sqrt",
    warmup="3125 steps",  # 1/320 of 1,000,000; the same at every batch
    warmup_scaling="steps",
    decay="linear",
    duration="1000000 steps",
    weight_decay=0.01,
    betas=(0.9, 0.999),
    eps=1e-6,
)
_MLPERF = Recipe(optimizer="lamb", scaling="sqrt", warmup_scaling="steps", decay="linear", eps=1e-6)

PRESETS: dict[str, Preset] = {
    "bert-base": Preset(
        _BERT,
        "Devlin et al. 2018, arXiv:1810.04805, appendix A.2. Their decay starts at step 0, so the rate drops by 1% "
        "when the warmup ends; here it starts at the peak.",
    ),
    "roberta-large": Preset(
        Recipe(
            lr=4e-4,
            reference_batch_size=8192,
            warmup="30000 steps",
            decay="linear",
            duration="500000 steps",
            betas=(0.9, 0.98),
            eps=1e-6,
            max_grad_norm=0.0,
        ),
        "Liu et al. 2019, arXiv:1907.11692, table 9 (batch 8K; without gradient clipping).",
    ),
    "roberta-fairseq": Preset(
        Recipe(
            lr=5e-4,
            reference_batch_size=2048,
            warmup="10000 steps",
            duration="125000 steps",
            betas=(0.9, 0.98),
            eps=1e-6,
        ),
        "fairseq, examples/roberta/config/pretraining/base.yaml: 16 x 8 GPUs x 16 sequences.",
        Batch(per_device=16),
    ),
    "bert-large-lamb": Preset(
        _LAMB,
        "You et al. 2019, arXiv:1904.00962, table of untuned LAMB: 512 to 32K with sqrt scaling, 3125 warmup steps at "
        "each batch size.",
    ),
    "bert-24h": Preset(
        Recipe(lr=1e-3, reference_batch_size=4096, warmup="6%", duration="23000 steps", betas=(0.9, 0.98), eps=1e-6),
        "Izsak et al. 2021, arXiv:2104.07705. Their duration is a time budget of 24 hours, which is about 23000 steps.",
    ),
    "mlperf-bert-8192": Preset(
        replace(
            _MLPERF,
            lr=0.00288293,
            reference_batch_size=8192,
            warmup="287 steps",
            duration="600 steps",
            betas=(0.88, 0.88),
        ),
        "mlcommons/logging, training_5.1.0/rcps_bert.json (without its start_warmup_step -76).",
    ),
    "mlperf-bert-12288": Preset(
        replace(
            _MLPERF,
            lr=0.0031,
            reference_batch_size=12288,
            warmup="300 steps",
            duration="500 steps",
            betas=(0.8, 0.925),
        ),
        "mlcommons/logging, training_5.1.0/rcps_bert.json (without its start_warmup_step -100).",
    ),
    "resnet50-goyal": Preset(
        Recipe(
            optimizer="sgd",
            lr=0.1,
            reference_batch_size=256,
            scaling="linear",
            warmup="5 epochs",
            warmup_scaling="samples",
            start_lr="reference",
            decay="multistep",
            decay_milestones=("30 epochs", "60 epochs", "80 epochs"),
            decay_gamma=0.1,
            duration="90 epochs",
            weight_decay=1e-4,
            momentum=0.9,
        ),
        "Goyal et al. 2017, arXiv:1706.02677, section 5.1: 0.1 x B/256, five epochs of warmup from 0.1, x 1/10 at "
        "epochs 30, 60 and 80 of 90 on ImageNet-1k.",
        Batch(per_device=32),
        num_samples=1_281_167,
    ),
}
