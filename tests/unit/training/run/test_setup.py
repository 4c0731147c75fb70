"""What is refused before the data is read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from warmup.config import Config
from warmup.config.recipe import Recipe
from warmup.errors import UserError
from warmup.training.run.setup import check_recipe

RECIPE = Recipe("adamw", 0.01, 32, warmup="20k tokens", duration="1000 samples")
"""At 128 tokens per sample a warmup of 156 samples; at 1 token it would be longer than the run."""
CONFIG = Config(recipe=RECIPE)
STREAMING = replace(CONFIG, data=replace(CONFIG.data, streaming=True, validation_files=["held_out.txt"]))


@pytest.mark.parametrize("config", [CONFIG, STREAMING])
def test_lengths_in_mixed_units_are_not_judged_by_a_guess(config: Config) -> None:
    check_recipe(config, 1)


def test_a_stream_has_no_epochs() -> None:
    recipe = replace(RECIPE, warmup="0 steps", duration="3 epochs")
    check_recipe(replace(CONFIG, recipe=recipe), 1)
    with pytest.raises(UserError, match='^recipe.duration: "3 epochs" needs'):
        check_recipe(replace(STREAMING, recipe=recipe), 1)


def test_what_no_data_can_mend_is_refused() -> None:
    recipe = replace(RECIPE, warmup="2000 samples")
    for config in (CONFIG, STREAMING):
        with pytest.raises(UserError, match="^recipe.warmup: "):
            check_recipe(replace(config, recipe=recipe), 1)
