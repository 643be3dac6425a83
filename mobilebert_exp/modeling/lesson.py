"""A teacher with its student: what both return for a batch, and how far apart they are.

Shapes: B batch, L tokens, A the student's layers, P masked places, V words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from mobilebert_exp.modeling.distillation import LayerOutput, TransferLosses, transfer_losses
from mobilebert_exp.modeling.encoder import EncoderOutput
from mobilebert_exp.modeling.pretrainer import PretrainingModel, PretrainingOutput
from mobilebert_exp.modeling.pretraining_losses import answers, inputs
from mobilebert_exp.modeling.transfer import LowerLayers, Padding, Semantics, TransferConfig
from mobilebert_exp.modeling.variables import STACKED

Batch = Mapping[str, tf.Tensor]


class Compared(NamedTuple):
    """How far the student's layers are from their teachers: what is taught `[B]`, and every loss by layer, `[A]`.

    A layer that was not compared is no number.
    """

    taught_B: tf.Tensor
    by_layer: Mapping[str, tf.Tensor]


class Lesson:
    """No `tf.Module`, so that no checkpoint and no optimizer finds the teacher.

    Args:
      teacher: pre-trained; only its forward pass is run, without dropout.
      matching: its layer, from 0, for each of the student's.
      config: what is compared, and how.
    """

    def __init__(self, teacher: PretrainingModel, *, matching: Sequence[int], config: TransferConfig) -> None:
        self._teacher, self._matching, self._config = teacher, list(matching), config

    def in_turn(self, student: PretrainingModel, batch: Batch, *, layer: tf.Tensor) -> Compared:
        """Of one of the student's layers, an int32 scalar; no layer above it is computed."""
        given = inputs(batch)
        trains_below = self._config.lower_layers is LowerLayers.slow
        ours = LayerOutput(*student.encoder.at_layer(*given, layer=layer, trains_below=trains_below))
        matching, all_hidden = tf.gather(tf.constant(self._matching), layer), None
        if self._config.semantics is Semantics.corrected:
            theirs = LayerOutput(*self._teacher.encoder.at_layer(*given, layer=matching))
        else:
            whole = self._teacher.encoder(*given, all_layers=True)
            assert whole.hidden_ABLH is not None, "asked for"
            all_hidden = whole.hidden_ABLH
            theirs = LayerOutput(tf.gather(all_hidden, matching + 1), tf.gather(whole.scores_ABNLM, matching))
        losses = transfer_losses(ours, theirs, counted_BL=self._counted(batch), all_hidden=all_hidden)
        is_here_A = tf.range(len(self._matching)) == layer
        by_layer = {
            name: tf.where(is_here_A, tf.reduce_sum(value_B), math.nan) for name, value_B in losses._asdict().items()
        }
        return Compared(losses.total(self._config, layers=len(self._matching)), by_layer)

    def at_once(self, ours: EncoderOutput, theirs: EncoderOutput, batch: Batch) -> Compared:
        """Of all the student's layers."""
        assert ours.hidden_ABLH is not None and theirs.hidden_ABLH is not None, "asked for all layers"
        matched = LayerOutput(
            tf.gather(theirs.hidden_ABLH, [layer + 1 for layer in self._matching]),
            tf.gather(theirs.scores_ABNLM, self._matching),
        )
        losses: TransferLosses = transfer_losses(
            LayerOutput(ours.hidden_ABLH[1:], ours.scores_ABNLM),
            matched,
            counted_BL=self._counted(batch),
            all_hidden=None if self._config.semantics is Semantics.corrected else theirs.hidden_ABLH,
        )
        taught_AB = losses.total(self._config, layers=len(self._matching))
        by_layer = {name: tf.reduce_sum(value_AB, axis=1) for name, value_AB in losses._asdict().items()}
        return Compared(tf.reduce_sum(taught_AB, axis=0), by_layer)

    def encoded(self, batch: Batch) -> EncoderOutput:
        """The teacher's outputs of all layers."""
        return encoded(self._teacher, batch)

    def answers(self, batch: Batch, *, all_layers: bool) -> PretrainingOutput:
        """The teacher's answers, and if asked for its outputs of all layers."""
        return answers(self._teacher, batch, all_layers=all_layers)

    def _counted(self, batch: Batch) -> tf.Tensor:
        mask_BL = batch["input_mask"]
        return mask_BL if self._config.padding is Padding.masked else tf.ones_like(mask_BL)


def encoded(model: PretrainingModel, batch: Batch) -> EncoderOutput:
    """Outputs of all layers, without dropout."""
    return model.encoder(*inputs(batch), all_layers=True)


def begin_as(student: PretrainingModel, teacher: PretrainingModel) -> list[str]:
    """Copies what both call by one name and have in one shape, the blocks apart; returns those names.

    Embeddings, and the heads that name words and judge pairs. The norm of the embeddings only where both norms are of a
    kind, for scale and shift of a LayerNorm mean something else in a NoNorm.
    """
    ours, theirs = ({**model.encoder.weights, **model.weights} for model in (student, teacher))
    is_alike = student.encoder.config.normalization is teacher.encoder.config.normalization
    copied = []
    for name, variable in ours.items():
        fits = name in theirs and theirs[name].shape == variable.shape and not name.startswith(STACKED)
        if fits and (is_alike or not name.startswith("embeddings/norm/")):
            variable.assign(tf.convert_to_tensor(theirs[name]))
            copied.append(name)
    return copied
