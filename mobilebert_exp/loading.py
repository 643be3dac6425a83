"""Models with the weights of a checkpoint, of whatever format, for those who build upon them in Python.

pretrainer = mobilebert_exp.load_pretrainer("bert_config.json", "mobilebert.ckpt")
encoder = mobilebert_exp.load_encoder("RUN")
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Mapping

import tensorflow as tf

from mobilebert_exp import original_json
from mobilebert_exp.config import MISSING, ModelConfig
from mobilebert_exp.data import sources
from mobilebert_exp.errors import CheckpointError
from mobilebert_exp.modeling.checkpoints import formats, sizes, tf_models_items
from mobilebert_exp.modeling.checkpoints.account import COMPUTATION, Demand, account, assign
from mobilebert_exp.modeling.checkpoints.weights import Weights, model_of
from mobilebert_exp.modeling.encoder import MobileBertEncoder
from mobilebert_exp.modeling.pretrainer import PretrainingModel
from mobilebert_exp.modeling.variables import (
    VariableSpec,
    encoder_variables,
    masked_lm_variables,
    next_sentence_variables,
)

log = logging.getLogger(__name__)
NEXT_SENTENCE = "heads/next_sentence/kernel"
CACHE = "~/.cache/mobilebert_exp"
Place = str | os.PathLike[str]


class Pretrainer:
    """A MobileBERT with both heads of pre-training, asked as tf-models' `BertPretrainerV2` is.

    Attributes:
      encoder: the encoder.
      model: the encoder and the heads, as training uses them.

    Args:
      next_sentence: whether the head for next sentences came from a checkpoint, and belongs to `checkpoint_items`.
    """

    def __init__(self, model: PretrainingModel, *, next_sentence: bool = True) -> None:
        self.model = model
        self._next_sentence = next_sentence
        self.encoder: MobileBertEncoder = model.encoder

    @functools.cached_property  # the word table is in two items, and has to be one object
    def checkpoint_items(self) -> Mapping[str, tf.Module]:
        """The items of tf-models' checkpoints, for `tf.train.Checkpoint(**items)`: to save them, or to restore them.

        Without the head for next sentences where the checkpoint had none.
        """
        return tf_models_items.checkpoint_items(self.model, next_sentence=self._next_sentence)

    def __call__(
        self, inputs: Mapping[str, tf.Tensor], *, seed: tf.Tensor | None = None, all_layers: bool = False
    ) -> dict[str, tf.Tensor]:
        """Encodes a batch.

        Args:
          inputs: `input_word_ids`, `input_mask`, `input_type_ids` `[B, L]` and `masked_lm_positions` `[B, P]`, int32.
          seed: int32 `[2]` for dropout; None switches dropout off.
          all_layers: whether to return every layer's output and its scores before the softmax too.

        Returns:
          `sequence_output` `[B, L, H]`, `pooled_output` `[B, H]`, `mlm_logits` `[B, P, V]`, `next_sentence` `[B, 2]`;
          and, if asked for, `encoder_outputs` `[A + 1, B, L, H]` and `attention_scores` `[A, B, N, L, L]`.
        """
        names = ("input_word_ids", "input_mask", "input_type_ids", "masked_lm_positions")
        found = self.model(*(inputs[name] for name in names), seed=seed, all_layers=all_layers)
        answers = {
            "sequence_output": found.encoded.sequence_BLH,
            "pooled_output": found.encoded.pooled_BH,
            "mlm_logits": found.masked_lm_BPV,
            "next_sentence": found.next_sentence_B2,
        }
        if all_layers:
            answers["encoder_outputs"] = found.encoded.hidden_ABLH
            answers["attention_scores"] = found.encoded.scores_ABNLM
        return answers


def load_pretrainer(config_json: Place | None, checkpoint: Place, *, cache_dir: Place = CACHE) -> Pretrainer:
    """The model of pre-training with a checkpoint's weights.

    Its head for next sentences starts anew, with a warning, where the checkpoint has none: tf-models' have not.

    Args:
      config_json: an original model file; None if the checkpoint knows its architecture.
      checkpoint: what `init.checkpoint` takes: a run, a checkpoint of any format, an archive; here or `gs://…`.
      cache_dir: for what is fetched or unpacked.

    Raises:
      CheckpointError: it is damaged, of another architecture, or lacks the encoder or the head for masked words.
      ConfigError: the model file is damaged.
    """
    weights = formats.read(sources.checkpoint(os.fspath(checkpoint), cache_dir=os.fspath(cache_dir)))
    config = _architecture(weights, config_json, checkpoint)
    wanted = encoder_variables(config) + masked_lm_variables(config)
    next_sentence = NEXT_SENTENCE in weights.values
    if next_sentence:
        wanted += next_sentence_variables(config)
    else:
        log.warning("%s has no head for next sentences: that of the model starts anew", checkpoint)
    model = PretrainingModel(config)
    _fill(model, weights, wanted, config, checkpoint)
    return Pretrainer(model, next_sentence=next_sentence)


def load_encoder(checkpoint: Place, *, config_json: Place | None = None, cache_dir: Place = CACHE) -> MobileBertEncoder:
    """An encoder with a checkpoint's weights; its heads are left aside.

    Args:
      checkpoint, config_json, cache_dir: as for `load_pretrainer`.

    Raises:
      CheckpointError, ConfigError: as `load_pretrainer`.
    """
    weights = formats.read(sources.checkpoint(os.fspath(checkpoint), cache_dir=os.fspath(cache_dir)))
    config = _architecture(weights, config_json, checkpoint)
    encoder = MobileBertEncoder(config)
    _fill(encoder, weights, encoder_variables(config), config, checkpoint)
    return encoder


def _architecture(weights: Weights, config_json: Place | None, checkpoint: Place) -> ModelConfig:
    """That in the model file, else the checkpoint's own; how its weights are computed with is the checkpoint's."""
    known = {"name": "loaded", **sizes.told_by(weights.values), **(weights.model or {})}
    if config_json is not None:
        file = os.fspath(config_json)
        stated = original_json.architecture(file, named=file)
        return model_of({**stated, **{name: known[name] for name in COMPUTATION if name in known}})
    needed = [field.name for field in dataclasses.fields(ModelConfig) if field.default == MISSING]
    absent = [name for name in needed if name not in known]
    if absent:
        raise CheckpointError(f"{checkpoint} does not say its architecture ({absent[0]}); give its config_json too")
    return model_of(known)


def _fill(
    module: tf.Module, weights: Weights, wanted: list[VariableSpec], config: ModelConfig, checkpoint: Place
) -> None:
    found = account(weights, wanted=wanted, model=config, head="", demand=Demand.whole, source=os.fspath(checkpoint))
    for warning in found.warnings:
        log.warning("%s", warning)
    assign(module, weights, found)
