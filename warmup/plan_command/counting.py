"""How many samples a training set has, where durations need it: counted as training would, and kept in the cache."""

from __future__ import annotations

from warmup.config import Config
from warmup.duration import DataSize, Duration


def data_size(config: Config, given: DataSize) -> DataSize:
    """What is given of the size of the training set, and what durations need of it beyond that.

    Data is tokenised only where a duration is in epochs or tokens and data.train_files names a finite set. That is the
    one case in which planning needs torch.

    Args:
        config: the configuration.
        given: the part that the user says.

    Raises:
        UserError: the data cannot be read.
    """
    recipe = config.recipe
    lengths = {
        "recipe.duration": recipe.duration,
        "recipe.warmup": recipe.warmup,
        "recipe.decay_length": recipe.decay_length,
        "recipe.noise_scale": recipe.noise_scale,
        "batch.warmup": config.batch.warmup,
    }
    units = {Duration.parse(text, flag).unit for flag, text in lengths.items() if text}
    units |= {Duration.parse(text, "recipe.decay_milestones").unit for text in recipe.decay_milestones}
    missing = ("epochs" in units and given.num_samples is None) or (
        "tokens" in units and given.tokens_per_sample is None
    )
    if not missing or not config.data.train_files or config.data.streaming:
        return given
    from warmup.training.data.prepare import prepare_data
    from warmup.training.tasks import create_task

    train = prepare_data(config, create_task(config)).train
    return DataSize(given.num_samples or train.size, given.tokens_per_sample or train.mean_length)
