"""Causal language modelling: continuing a text, as GPT-2 does (Radford et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from warmup.config import Config
from warmup.config.tasks import TASKS
from warmup.errors import UserError
from warmup.training.data.batching.micro_batch import MicroBatch, padded_inputs, token_targets
from warmup.training.data.readers.columns import RowFormat, text_column
from warmup.training.data.samples import SampleSource
from warmup.training.data.tokenizers.load import load_tokenizer
from warmup.training.data.tokenizers.train import train_bpe
from warmup.training.data.tokenizers.windows import TokenizeBatch, causal_windows
from warmup.training.models.gpt2 import boundary_tokens
from warmup.training.models.input_layout import Head
from warmup.training.tasks.losses import cross_entropy, cross_entropy_sum
from warmup.training.tasks.metrics import correct_and_total, language_metrics
from warmup.training.tasks.task import Objective, Predictor, Task


class CausalLM(Task):
    """Predicts the token after each token of windows of documents."""

    facts = TASKS["clm"]
    auto_class: Any = AutoModelForCausalLM
    head: Head = "token"
    causal = True
    features: Mapping[str, Any] = {}

    def __init__(self, config: Config):
        self._data, self._model = config.data, config.model
        self.row_format = RowFormat.of(config.data, text_column())

    def load_tokenizer(self, name: str, flag: str) -> PreTrainedTokenizerBase:
        return load_tokenizer(name, flag, needs="eos")

    def train_tokenizer(self, rows: datasets.Dataset, vocab_size: int) -> PreTrainedTokenizerBase:
        return train_bpe(rows, vocab_size)

    def tokenizer_facts(self, tokenizer: PreTrainedTokenizerBase) -> list[Any]:
        return [boundary_tokens(tokenizer)]

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> TokenizeBatch:
        return causal_windows(tokenizer, self._data.max_length)

    def objective(self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], train: Any) -> Objective:
        def collate(samples: SampleSource, indices: np.ndarray, epochs: np.ndarray, seed: int) -> MicroBatch:
            ids_BT, mask_BT, _ = samples.gather(indices)
            predicted_BT = np.zeros_like(mask_BT)
            predicted_BT[:, :-1] = mask_BT[:, 1:]  # each token that has one after it
            return token_targets(padded_inputs(ids_BT, mask_BT, tokenizer), predicted_BT, np.roll(ids_BT, -1, 1))

        return Objective(
            collate=collate,
            losses=cross_entropy,
            training_loss_sum=cross_entropy_sum,
            results=correct_and_total,
            width=2,
            metrics=language_metrics,
        )

    def predictor(
        self, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], settings: Mapping[str, Any]
    ) -> Predictor:
        raise UserError(f"--predict: {self.facts.no_prediction.format(model=self._model)}")
