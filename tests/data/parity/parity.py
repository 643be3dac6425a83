"""Parity: has a short sequence of zeros and ones an odd number of ones? A whole task in one file, as an example.

Shapes: B batch, L tokens, H hidden size.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobilebert_exp.checks import at_least
from mobilebert_exp.config import ModelConfig, TaskConfig
from mobilebert_exp.data import cache
from mobilebert_exp.modeling.variables import VariableSpec, dense, encoder_variables
from mobilebert_exp.tasks.base import Column, Evaluation, Features, Split

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

CLS, ZERO, ONE = 1, 2, 3  # 0 is padding
HEAD = "heads/parity"


@dataclass(kw_only=True, slots=True)
class Config(TaskConfig):
    """`num_bits` zeros and ones a sequence; training draws `train_examples` of them, dev holds each sequence once."""

    main_metric: str = "accuracy"
    max_seq_length: int = 8
    num_bits: int = 4
    train_examples: int = 20_000

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        at_least("task", 1, num_bits=self.num_bits, train_examples=self.train_examples)
        at_least("task", self.num_bits + 1, max_seq_length=self.max_seq_length)


def create(config: Config, *, data_root: str | None, cache_dir: str) -> Parity:
    return Parity(config, cache_dir=cache_dir)


class Parity:
    """See `tasks.base.Task`."""

    vocab_size = 4
    head = "parity: even, odd"

    def __init__(self, config: Config, *, cache_dir: str) -> None:
        self.config = config
        self._cache_dir = Path(cache_dir)

    def num_examples(self, split: Split) -> int:
        return len(self._sequences(split))

    def digests(self, splits: Iterable[Split]) -> Mapping[str, str]:
        return {split.value: hashlib.sha256(repr(self._sequences(split)).encode()).hexdigest() for split in splits}

    def features(self, split: Split, *, limit: int | None = None) -> Features:
        from mobilebert_exp.data import records

        sequences = self._sequences(split)[:limit]

        def build(folder: Path) -> dict[str, Any]:
            return {"rows": records.write(folder / "features.tfrecord", map(self._row, sequences))}

        key = {"task": "parity", "sequences": self.digests([split])[split.value], "limit": limit}
        folder, metadata = cache.cached(self._cache_dir / "features", key=key, build=build)
        length = Column(shape=(self.config.max_seq_length,))
        return Features(
            files=(folder / "features.tfrecord",),
            columns={"input_ids": length, "input_mask": length, "odd": Column(shape=(1,))},
            num_features=metadata["rows"],
            num_examples=len(sequences),
        )

    def variables(self, model: ModelConfig) -> list[VariableSpec]:
        return encoder_variables(model) + dense(HEAD, model.hidden_size, 2)

    def build(self, model: ModelConfig, *, seed: int, dtype: str) -> tf.Module:
        import tensorflow as tf

        from mobilebert_exp.modeling.encoder import MobileBertEncoder, create_variables

        module = tf.Module(name="parity")
        module.encoder = MobileBertEncoder(model, seed=seed, dtype=dtype)
        module.weights = create_variables(dense(HEAD, model.hidden_size, 2), model, seed=seed)
        return module

    def losses(self, module: Any, batch: Mapping[str, tf.Tensor], *, seed: tf.Tensor | None) -> tf.Tensor:
        import tensorflow as tf

        logits_B2 = self._logits(module, batch, seed=seed)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=batch["odd"][:, 0], logits=logits_B2)

    def outputs(self, module: Any, batch: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        return {"logits": self._logits(module, batch, seed=None)}

    def score(self, outputs: Mapping[str, np.ndarray], split: Split, *, limit: int | None = None) -> Evaluation:
        labels = [sum(bits) % 2 for bits in self._sequences(split)[:limit]]
        accuracy = 100.0 * float((outputs["logits"].argmax(-1) == labels).mean())
        return Evaluation(metrics={"accuracy": accuracy})

    def _logits(self, module: Any, batch: Mapping[str, tf.Tensor], *, seed: tf.Tensor | None) -> tf.Tensor:
        import tensorflow as tf

        from mobilebert_exp.modeling.block import dense as apply_dense

        ids_BL, mask_BL = batch["input_ids"], batch["input_mask"]
        encoded = module.encoder(ids_BL, mask_BL, tf.zeros_like(ids_BL), seed=seed)
        return apply_dense(encoded.sequence_BLH[:, 0], module.weights, HEAD)

    def _sequences(self, split: Split) -> list[tuple[int, ...]]:
        every = list(itertools.product((0, 1), repeat=self.config.num_bits))
        return every if split is Split.dev else random.Random(0).choices(every, k=self.config.train_examples)

    def _row(self, bits: tuple[int, ...]) -> dict[str, list[int]]:
        ids = [CLS, *(ONE if bit else ZERO for bit in bits)]
        padding = [0] * (self.config.max_seq_length - len(ids))
        return {"input_ids": ids + padding, "input_mask": [1] * len(ids) + padding, "odd": [sum(bits) % 2]}
