"""Commands of `run_pretraining.py`, the README's recipe among them, as commands of ours."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
from command_line import here
from test_translate import _lines, _translated

from mobilebert_exp.composition import compose

DISTILLATION = """--attention_distill_factor=1 --bert_config_file=config/uncased_L-24_H-128_B-512_A-4_F-4_OPT.json
--bert_teacher_config_file=config/uncased_L-24_H-1024_B-512_A-4.json --beta_distill_factor=5000
--distill_ground_truth_ratio=0.5 --distill_temperature=1 --do_train --first_input_file=/path/to/pretraining_data
--first_max_seq_length=128 --first_num_train_steps=0 --first_train_batch_size=4096 --gamma_distill_factor=5
--hidden_distill_factor=100 --init_checkpoint=${TEACHER_CHECKPOINT} --input_file=path/to/pretraining_data
--layer_wise_warmup --learning_rate=0.0015 --max_predictions_per_seq=20 --max_seq_length=512 --num_distill_steps=240000
--num_train_steps=500000 --num_warmup_steps=10000 --optimizer=lamb --output_dir=${OUTPUT_DIR}
--save_checkpoints_steps=10000 --train_batch_size=2048 --use_einsum --use_summary --use_tpu --tpu_name=${TPU_NAME}"""
PRETRAINING = "--bert_config_file=uncased_L-24_H-1024_B-512_A-4.json --input_file=records/* --output_dir=out"


def test_the_readmes_distillation() -> None:
    """Every figure of the recipe arrives; what only the person knows stands as a word in capitals."""
    ended = here("translate", "--", _lines("run_pretraining.py", f"{DISTILLATION} \\"))
    assert ended.code == 0, ended.err
    found = dict(word.split("=", 1) for word in shlex.split(ended.out)[3:])
    assert found == {
        **{"mode": "train", "task": "distill", "model": "opt", "hardware": "tpu_v3_8", "hardware.dtype": "float32"},
        **{"task.train_file": "path/to/pretraining_data", "task.dev_file": "path/to/pretraining_data"},
        **{
            "task.vocab_file": "VOCAB",
            "task.teacher_checkpoint": "'${TEACHER_CHECKPOINT}'",
            "trainer.limit_eval": "800",
        },
        **{"task.max_seq_length": "512", "task.max_predictions_per_seq": "20", "task.global_batch_size": "2048"},
        **{"task.first_train_file": "/path/to/pretraining_data", "task.first_max_seq_length": "128"},
        **{"task.first_num_train_steps": "0", "task.first_train_batch_size": "4096", "task.num_train_steps": "500000"},
        **{"task.optimizer.name": "lamb", "task.optimizer.learning_rate": "0.0015"},
        **{"task.optimizer.warmup_steps": "10000", "task.transfer.steps": "240000", "task.temperature": "1"},
        **{"task.ground_truth_ratio": "0.5", "task.transfer.attention_factor": "1"},
        **{"task.transfer.hidden_factor": "100", "task.transfer.variance_factor": "5"},
        **{"task.transfer.mean_factor": "5000", "task.eval_batch_size": "8"},
        **{"trainer.checkpoint_every_steps": "10000", "output_dir": "'${OUTPUT_DIR}'"},
        "hardware.tpu_name": "'${TPU_NAME}'",
    }


def test_a_pre_training_composes() -> None:
    """Where a flag is not given, the original's default is told, because ours is another."""
    words = shlex.split(f"run_pretraining.py {PRETRAINING} --do_train --do_eval --max_eval_steps=5 --optimizer=lamb")
    config = compose(_translated(*words))
    task: Any = config.task
    assert (config.model.name, task.kind, task.optimizer.name.name) == ("teacher", "pretrain", "lamb")
    assert (task.global_batch_size, task.max_seq_length, task.optimizer.learning_rate) == (32, 128, 5e-5)
    assert (task.num_train_steps, task.optimizer.warmup_steps, config.trainer.limit_eval) == (100_000, 10_000, 40)
    assert (task.train_file, task.dev_file) == ("records/*", "records/*")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("", "neither --do_train nor --do_eval is given"),
        ("--do_train --bert_teacher_config_file=mine.json --layer_wise_warmup", "is not the published teacher's"),
        ("--do_train --bert_teacher_config_file=uncased_L-24_H-1024_B-512_A-4.json", "without --layer_wise_warmup"),
    ],
)
def test_a_pre_training_that_is_refused(flags: str, told: str) -> None:
    ended = here("translate", "--", *shlex.split(f"run_pretraining.py {PRETRAINING} {flags}"))
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err
