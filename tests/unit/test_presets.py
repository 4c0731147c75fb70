"""Published recipes by name: each has a source, and is healthy at the batch it was published for."""

from __future__ import annotations

import re

import pytest

from warmup.lint import examine
from warmup.plan import Topology
from warmup.presets import PRESETS


def test_the_names():
    assert {"bert-base", "roberta-large", "bert-large-lamb", "resnet50-goyal"} <= set(PRESETS)
    assert len({preset.recipe for preset in PRESETS.values()}) == len(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_source_can_be_looked_up(name):
    assert re.search(r"arXiv:\d{4}\.\d{5}|\w+\.(json|yaml)\b", PRESETS[name].source)


@pytest.mark.parametrize("name", PRESETS)
def test_at_its_own_batch_a_recipe_is_as_published(name):
    recipe = PRESETS[name].recipe
    plan, findings = examine(recipe, Topology(1, recipe.reference_batch_size), PRESETS[name].num_samples)
    assert findings == []
    assert (plan.scale, plan.peak_lr) == (1.0, recipe.lr)
    assert (plan.betas, plan.eps, plan.momentum) == (recipe.betas, recipe.eps, recipe.momentum)
    assert plan.lr_at_step(plan.warmup_steps) == recipe.lr
    assert plan.lr_at_step(plan.total_steps) < recipe.lr / 100


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("ranks", [1, 7, 64, 256])
def test_on_other_numbers_of_ranks_there_is_a_plan(name, ranks):
    preset = PRESETS[name]
    plan, findings = examine(preset.recipe, Topology.from_batch(preset.batch, ranks), preset.num_samples)
    assert [finding for finding in findings if finding.code not in ("overrun", "linear-adaptive", "short-warmup")] == []
    assert plan.global_batch_size == ranks * preset.batch.per_device
    assert 0 < plan.warmup_steps < plan.total_steps
