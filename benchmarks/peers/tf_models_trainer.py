"""tf-models' own trainer for one step: its question answering task, optimizer and experiment runner.

Called with a job as JSON and an empty folder. It prints Orbit's line about step 1 and saves a checkpoint, as always.
Only what this run needs is imported; tf-models' ready-made entry point imports every project there is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from official.core import config_definitions, train_lib
from official.modeling import optimization
from official.nlp.data import question_answering_dataloader
from official.nlp.tasks import question_answering

from benchmarks.peers.tf_models import encoder_config


def experiment(job: Mapping[str, Any]) -> config_definitions.ExperimentConfig:
    """As its `bert/squad`, with our architecture and learning rate."""
    data = question_answering_dataloader.QADataConfig(
        input_path=job["records"], global_batch_size=job["batch"], seq_length=job["length"], is_training=True
    )
    task = question_answering.QuestionAnsweringConfig(
        model=question_answering.ModelConfig(encoder=encoder_config(job["architecture"])),
        train_data=data,
        validation_data=None,
    )
    peak, last = job["optimizer"]["learning_rate"], job["optimizer"]["end_learning_rate_ratio"]
    optimizer = {
        "weight_decay_rate": job["optimizer"]["weight_decay"],
        "exclude_from_weight_decay": ["LayerNorm", "layer_norm", "bias"],
    }
    rate = {"initial_learning_rate": peak, "end_learning_rate": peak * last, "decay_steps": 1}
    trainer = config_definitions.TrainerConfig(
        train_steps=1,
        steps_per_loop=1,
        optimizer_config=optimization.OptimizationConfig(
            {
                "optimizer": {"type": "adamw", "adamw": optimizer},
                "learning_rate": {"type": "polynomial", "polynomial": rate},
            }
        ),
    )
    return config_definitions.ExperimentConfig(task=task, trainer=trainer)


def main() -> None:
    params = experiment(json.loads(sys.argv[1]))
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        task = question_answering.QuestionAnsweringTask(params.task)
    runner = train_lib.OrbitExperimentRunner(
        distribution_strategy=strategy, task=task, mode="train", params=params, model_dir=sys.argv[2]
    )
    with strategy.scope():
        runner.controller.train(steps=params.trainer.train_steps)


if __name__ == "__main__":
    main()
