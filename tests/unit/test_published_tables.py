"""The published tables: what papers and benchmarks ran at each batch size, reproduced by planning one recipe.

Each value stands beside its source.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from warmup.config.recipe import Recipe
from warmup.plan import Plan, Topology
from warmup.planning import make_plan
from warmup.presets import PRESETS


def preset_at(name: str, batch: int) -> Plan:
    preset = PRESETS[name]
    return make_plan(preset.recipe, Topology(1, batch), preset.num_samples)


# Goyal et al. 2017, arXiv:1706.02677, section 5.1: 0.1 * kn / 256, warmup over 5 epochs, 1/10 at epochs 30, 60, 80;
# sections 2.2 and 5.1: at kn = 8192 the ramp goes from 0.1 to 3.2


@pytest.mark.parametrize("batch", [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 65_536])
def test_goyals_reference_rate(batch):
    plan = preset_at("resnet50-goyal", batch)
    assert plan.peak_lr == pytest.approx(0.1 * batch / 256, rel=1e-15)
    assert plan.start_lr == 0.1
    assert plan.warmup_steps == pytest.approx(5 * 1_281_167 / batch, abs=0.5)  # ImageNet-1k's training set
    assert plan.total_steps == -(-90 * 1_281_167 // batch)


@pytest.mark.parametrize("batch", [64, 1024, 8192])
def test_all_that_belongs_together_is_what_goyal_did(batch):
    """Rate and warmup follow the batch; momentum (0.9) and weight decay (0.0001) stay (section 5.1)."""
    preset = PRESETS["resnet50-goyal"]
    plan = make_plan(replace(preset.recipe, scaled="all"), Topology(1, batch), preset.num_samples)
    assert replace(plan, weight_decay_scaling="none", weight_decay=1e-4) == preset_at("resnet50-goyal", batch)
    assert plan.weight_decay == pytest.approx(1e-4, rel=1e-12)


def test_goyals_ramp_at_8192():
    plan = preset_at("resnet50-goyal", 8192)
    assert plan.warmup_steps == 782  # 5 * 156.39
    assert plan.lr_at_step(0) == pytest.approx(0.1 + 3.1 / 782, rel=1e-15)
    assert plan.lr_at_step(390) == pytest.approx(1.65, rel=1e-15)  # t = 391, half of 782
    assert plan.lr_at_step(781) == pytest.approx(3.2, rel=1e-15)
    increments = {round(plan.lr_at_step(step + 1) - plan.lr_at_step(step), 12) for step in range(781)}
    assert len(increments) == 1  # "increase the learning rate by a constant amount at each iteration"


def test_goyals_drops_at_8192():
    plan = preset_at("resnet50-goyal", 8192)
    per_epoch = 1_281_167 / 8192
    for epoch, rate in ((5.01, 3.2), (29.9, 3.2), (30.1, 0.32), (59.9, 0.32), (60.1, 0.032), (80.1, 0.0032)):
        assert plan.lr_at_step(int(epoch * per_epoch)) == pytest.approx(rate, rel=1e-12)


def test_goyal_on_256_gpus_of_32():
    plan = make_plan(
        PRESETS["resnet50-goyal"].recipe, Topology.from_batch(PRESETS["resnet50-goyal"].batch, 256), 1_281_167
    )
    assert (plan.global_batch_size, plan.scale, plan.peak_lr) == (8192, 32.0, pytest.approx(3.2, rel=1e-15))


# You et al. 2019, arXiv:1904.00962, the table of untuned LAMB for BERT: 5e-3 / 2^((15 - log2 B) / 2), warmup ratios
# 1/320 to 1/5, from 1,000,000 steps at 512 to 15,625 at 32K


@pytest.mark.parametrize(
    ("batch", "lr", "warmup_ratio", "steps"),
    [
        (512, 6.25e-4, 1 / 320, 1_000_000),
        (1024, 8.8388e-4, 1 / 160, 500_000),
        (2048, 1.25e-3, 1 / 80, 250_000),
        (4096, 1.76777e-3, 1 / 40, 125_000),
        (8192, 2.5e-3, 1 / 20, 62_500),
        (16_384, 3.53553e-3, 1 / 10, 31_250),
        (32_768, 5e-3, 1 / 5, 15_625),
    ],
)
def test_lambs_table(batch, lr, warmup_ratio, steps):
    plan = preset_at("bert-large-lamb", batch)
    assert plan.peak_lr == pytest.approx(lr, rel=5e-6)
    assert (plan.total_steps, plan.warmup_steps) == (steps, 3125)
    assert plan.warmup_steps / plan.total_steps == pytest.approx(warmup_ratio, rel=1e-15)
    assert plan.lr_at_step(3124) == plan.lr_at_step(3125) == plan.peak_lr
    assert plan.betas == (0.9, 0.999)
    assert make_plan(replace(PRESETS["bert-large-lamb"].recipe, scaled="all"), Topology(1, batch)) == plan


# mlcommons/logging, training_5.1.0/rcps_bert.json: the rates of 8704 and 13056 are those of 8192 and 12288 by the
# square root, as its authors computed them


@pytest.mark.parametrize(
    ("name", "reference_batch", "reference_lr", "batch", "lr"),
    [
        ("mlperf-bert-8192", 8192, 0.00288293, 8704, 0.002971656225),
        ("mlperf-bert-12288", 12_288, 0.0031, 13_056, 0.00319540686),
    ],
)
def test_mlperfs_pairs(name, reference_batch, reference_lr, batch, lr):
    assert preset_at(name, reference_batch).peak_lr == reference_lr
    plan = preset_at(name, batch)
    assert plan.peak_lr == pytest.approx(lr, abs=1e-9)
    assert plan.warmup_steps == preset_at(name, reference_batch).warmup_steps


@pytest.mark.parametrize(
    ("name", "warmup", "total", "betas"),
    [("mlperf-bert-8192", 287, 600, (0.88, 0.88)), ("mlperf-bert-12288", 300, 500, (0.8, 0.925))],
)
def test_mlperfs_reference_points(name, warmup, total, betas):
    plan = preset_at(name, PRESETS[name].recipe.reference_batch_size)
    assert (plan.warmup_steps, plan.total_steps, plan.betas) == (warmup, total, betas)


# Devlin et al. 2018, arXiv:1810.04805, appendix A.2


def test_bert():
    plan = preset_at("bert-base", 256)
    assert (plan.peak_lr, plan.warmup_steps, plan.total_steps) == (1e-4, 10_000, 1_000_000)
    assert (plan.weight_decay, plan.betas, plan.eps, plan.max_grad_norm) == (0.01, (0.9, 0.999), 1e-6, 1.0)
    assert plan.lr_at_step(0) == pytest.approx(1e-8, rel=1e-15)
    assert plan.lr_at_step(4999) == pytest.approx(5e-5, rel=1e-15)
    assert plan.lr_at_step(9_999) == plan.lr_at_step(10_000) == 1e-4
    assert plan.lr_at_step(505_000) == pytest.approx(5e-5, rel=1e-15)


@pytest.mark.parametrize(
    ("world_size", "warmup", "total"), [(1, 80_000, 8_000_000), (8, 10_000, 10**6), (64, 1250, 125_000)]
)
def test_bert_on_other_numbers_of_gpus(world_size, warmup, total):
    """32 per GPU: the same 2.56 M samples of warmup and 256 M in all."""
    plan = make_plan(PRESETS["bert-base"].recipe, Topology.from_batch(PRESETS["bert-base"].batch, world_size))
    assert (plan.warmup_steps, plan.total_steps) == (warmup, total)
    assert (plan.warmup_samples, plan.total_samples) == (2_560_000, 256_000_000)
    assert plan.peak_lr == pytest.approx(1e-4 * world_size / 8, rel=1e-15)


# Liu et al. 2019, arXiv:1907.11692, table 9


def test_roberta_large():
    plan = preset_at("roberta-large", 8192)
    assert (plan.peak_lr, plan.warmup_steps, plan.total_steps) == (4e-4, 30_000, 500_000)
    assert (plan.betas, plan.eps, plan.weight_decay, plan.max_grad_norm) == ((0.9, 0.98), 1e-6, 0.01, 0.0)


# fairseq, examples/roberta/config/pretraining/base.yaml


def test_roberta_of_fairseq():
    preset = PRESETS["roberta-fairseq"]
    plan = make_plan(preset.recipe, Topology.from_batch(preset.batch, 16 * 8))
    assert (plan.global_batch_size, plan.scale) == (2048, 1.0)
    assert (plan.peak_lr, plan.warmup_steps, plan.total_steps) == (5e-4, 10_000, 125_000)


# Izsak et al. 2021, arXiv:2104.07705


def test_bert_in_24_hours():
    plan = preset_at("bert-24h", 4096)
    assert (plan.peak_lr, plan.warmup_steps, plan.total_steps) == (1e-3, 1380, 23_000)  # 6%


# Malladi et al. 2022, arXiv:2205.10287, definition 3: sqrt(k), 1 - k(1 - beta), eps / sqrt(k)


@pytest.mark.parametrize(
    ("k", "lr", "betas", "eps"),
    [(1, 1e-4, (0.9, 0.999), 1e-8), (4, 2e-4, (0.6, 0.996), 5e-9), (8, 2.8284e-4, (0.2, 0.992), 3.5355e-9)],
)
def test_malladis_rule_for_adam(k, lr, betas, eps):
    recipe = Recipe("adam", 1e-4, 256, scaling="sqrt", duration="100 steps", beta_scaling="sde", eps=1e-8)
    plan = make_plan(recipe, Topology(k, 256))
    assert plan.peak_lr == pytest.approx(lr, rel=1e-5) and plan.eps == pytest.approx(eps, rel=2e-5)
    assert plan.betas == pytest.approx(betas, rel=1e-12)


def test_malladis_rule_ends_at_k_10():
    """1 - 16 * 0.1 is no coefficient."""
    recipe = Recipe("adam", 1e-4, 256, scaling="sqrt", duration="100 steps", beta_scaling="sde")
    with pytest.raises(ValueError, match="sde changes beta 0.9 to -0.6 at k = 16; it is valid for k < 10 only"):
        make_plan(recipe, Topology(16, 256))


def test_half_life_holds_where_malladis_rule_ends():
    """beta^k, Marek et al. 2025, arXiv:2507.07101."""
    recipe = Recipe("adam", 1e-4, 256, scaling="sqrt", duration="100 steps", beta_scaling="half-life")
    plan = make_plan(recipe, Topology(16, 256))
    assert plan.betas == (pytest.approx(0.1853, abs=5e-5), pytest.approx(0.98412, abs=5e-6)) and plan.eps == 1e-8
