"""tf-models' `MobileBERTEncoder` under its span head, trained by its AdamW in one `tf.function`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.nlp import optimization
from official.nlp.configs import encoders
from official.nlp.modeling import models

from benchmarks.peers.worker import Model, random_batch, serve


def encoder_config(architecture: Mapping[str, Any]) -> encoders.EncoderConfig:
    """tf-models' names for our architecture; all of them, since its defaults are the teacher's."""
    mobilebert = encoders.MobileBertEncoderConfig(
        word_vocab_size=architecture["vocab_size"],
        word_embed_size=architecture["embedding_size"],
        type_vocab_size=architecture["type_vocab_size"],
        max_sequence_length=architecture["max_positions"],
        num_blocks=architecture["num_layers"],
        hidden_size=architecture["hidden_size"],
        num_attention_heads=architecture["num_heads"],
        intermediate_size=architecture["intermediate_size"],
        hidden_activation=architecture["hidden_act"],
        hidden_dropout_prob=architecture["hidden_dropout"],
        attention_probs_dropout_prob=architecture["attention_dropout"],
        intra_bottleneck_size=architecture["intra_bottleneck_size"],
        initializer_range=architecture["initializer_range"],
        use_bottleneck_attention=architecture["use_bottleneck_attention"],
        key_query_shared_bottleneck=architecture["key_query_shared_bottleneck"],
        num_feedforward_networks=architecture["num_feedforward_networks"],
        normalization_type=architecture["normalization"],
        classifier_activation=architecture["classifier_activation"],
    )
    return encoders.EncoderConfig(type="mobilebert", mobilebert=mobilebert)


def build(job: Mapping[str, Any]) -> Model:
    tf.config.threading.set_inter_op_parallelism_threads(job["threads"])
    tf.config.threading.set_intra_op_parallelism_threads(job["threads"])
    tf.random.set_seed(0)
    model = models.BertSpanLabeler(encoders.build_encoder(encoder_config(job["architecture"])))
    variables = model.trainable_variables
    peak = job["optimizer"]["learning_rate"]
    # It clips by the global norm, at 1.0, inside apply_gradients.
    optimizer = optimization.create_optimizer(peak, job["total_steps"], job["warmup_steps"])
    batch = {name: tf.constant(value) for name, value in random_batch(job).items()}

    @tf.function
    def train_step(batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        inputs = {
            "input_word_ids": batch["input_ids"],
            "input_mask": batch["input_mask"],
            "input_type_ids": batch["segment_ids"],
        }
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            labels = (batch["start_positions"], batch["end_positions"])
            losses = [
                tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=label, logits=logit))
                for label, logit in zip(labels, logits, strict=True)
            ]
            loss = tf.add_n(losses) / len(losses)
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return Model(
        step=lambda: float(train_step(batch)),
        parameters=sum(variable.shape.num_elements() for variable in variables),
    )


if __name__ == "__main__":
    serve(build)
