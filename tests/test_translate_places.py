"""The verb `translate` on places in buckets, where people with a TPU have everything."""

from __future__ import annotations

import shlex
from typing import Any

from command_line import here

from mobilebert_exp import compose
from mobilebert_exp.config import leaves

NAME = "uncased_L-24_H-128_B-512_A-4_F-4_OPT"
MODEL = f"--bert_config_file={NAME}.json"
OWN = ["run_squad.py", "--do_train", "--train_file=T", "--predict_file=P", "--vocab_file=gs://bucket/vocab.txt"]
OWN += ["--output_dir=gs://bucket/out"]
CLASSIFIER = ["run_classifier.py", "--do_train", "--task_name=MRPC", "--vocab_file=V", MODEL]


def _set(*arguments: str) -> dict[str, Any]:
    """What the translation sets, as composed."""
    ended = here("translate", "--", *arguments)
    assert ended.code == 0, ended.err
    return leaves(compose(shlex.split(ended.out)[3:]))


def test_places_in_buckets_go_where_ours_take_them() -> None:
    found = _set(*OWN, MODEL, "--data_dir=gs://bucket/data", "--init_checkpoint=gs://bucket/run")
    expected = {"upload_to": "gs://bucket/out", "output_dir": "outputs", "shared_cache": "gs://bucket/data"}
    expected |= {"task.vocab_file": "gs://bucket/vocab.txt", "init.checkpoint": "gs://bucket/run"}
    assert {key: found[key] for key in [*expected, "cache_dir"]} == {**expected, "cache_dir": None}
    places: dict[str, dict[str, Any]] = {
        "gs://bucket/glue/MRPC": {"data_root": "gs://bucket"},
        "gs://glue/MRPC": {"data_root": None, "task.dev_file": "gs://glue/MRPC/dev.tsv"},
    }
    for place, settings in places.items():
        flags = [f"--data_dir={place}", "--tfrecord_dir=gs://bucket/r", "--output_dir=gs://bucket"]
        found = _set(*CLASSIFIER, *flags)
        settings = {**settings, "shared_cache": "gs://bucket/r", "upload_to": "gs://bucket", "output_dir": "outputs"}
        assert {key: found[key] for key in settings} == settings


def test_a_model_file_in_a_bucket() -> None:
    """One with a published name need not be read."""
    assert _set(*OWN, f"--bert_config_file=gs://bucket/{NAME}/bert_config.json")["model.name"] == "opt"
    ended = here("translate", "--", *OWN, "--bert_config_file=gs://bucket/bert_config.json")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "error: --bert_config_file=gs://bucket/bert_config.json: model.from_json reads files of this machine; "
        "name a copy\n"
    )
