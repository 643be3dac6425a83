"""How soon a new process has trained one step of the full `opt`, against tf-models' own trainer on the same records.

Both are ordinary training runs, watched from outside: ours is the command line with everything that is on by default
(MLflow, provenance, checkpoints), the peer is tf-models' question answering task under its experiment runner. Each
time ends when the program prints its line about step 1, whose loss it has read by then.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.measurement import Comparison, Goal, Samples, in_turn
from benchmarks.processes import require, seconds_of, seconds_until
from mobilebert_exp import compose, registry
from mobilebert_exp.config import leaves
from mobilebert_exp.data import starter, vocabulary
from mobilebert_exp.tasks._starter import StarterConfig
from mobilebert_exp.tasks.base import Split

ROUNDS = 3
TARGET = 2.5
BATCH, LENGTH = 8, 128
VOCABULARY_SIZE = 30_522  # what `opt` has; the starter vocabulary is filled up to it
TRAINER = "benchmarks.peers.tf_models_trainer"
OURS_LINE, PEER_LINE = r"step 1/1 ", r"train \| step: +1 \|"
OURS, PEER = "mobilebert_exp", "tf-models trainer"
FIRST = f"{OURS}, its first run here, which makes the features"


def run(*, rounds: int, tell: Callable[[str], None]) -> list[Comparison]:
    """One comparison; `rounds` runs of each, after a first one that leaves the features in the cache."""
    require("official", "orbit", purpose="first_step")
    with tempfile.TemporaryDirectory(prefix="mobilebert_exp-benchmark-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        tell("generating the starter articles")
        overrides = _overrides(folder, articles=_write_articles(folder))
        ours = ["-m", "mobilebert_exp", *overrides]
        tell(f"first run of {OURS}, which makes the features")
        first = seconds_until(ours, folder=folder, line=OURS_LINE)
        tell(f"importing {PEER} once, so that what it reads is in memory")
        seconds_of(["-c", f"import {TRAINER}"], folder=folder)
        peer = ["-m", TRAINER, json.dumps(_trainer_job(overrides))]
        programs = {
            OURS: lambda: [seconds_until(ours, folder=folder, line=OURS_LINE)],
            PEER: lambda: [_peer_seconds(peer, folder=folder)],
        }
        found = in_turn(programs, rounds=rounds, tell=tell)
    return [
        Comparison(
            title=f"First step: process start to the end of the first training step of `opt`, {BATCH} × {LENGTH}",
            ours=found[OURS],
            peers=(found[PEER],),
            goal=Goal.at_least,
            target=TARGET,
            beside=(Samples(name=FIRST, values=(first,)),),
            notes=("Ours reads its features from the cache and records the run in MLflow, as a second run does.",),
        )
    ]


def _peer_seconds(command: list[str], *, folder: Path) -> float:
    """A run in a folder of its own: the trainer would go on from a checkpoint that it finds."""
    with tempfile.TemporaryDirectory(dir=folder) as model_dir:
        return seconds_until([*command, model_dir], folder=folder, line=PEER_LINE)


def _write_articles(folder: Path) -> dict[str, Path]:
    """The starter articles in their default number as SQuAD files, and their vocabulary filled up for `opt`."""
    settings = StarterConfig()
    recipe = settings.recipe()
    counts = {Split.train: settings.train_articles, Split.dev: settings.dev_articles}
    files: dict[str, Path] = {}
    for split, articles in counts.items():
        data = starter.generate(
            seed=settings.seed, articles=articles, version_2=False, split=split.value, recipe=recipe
        )
        files[f"{split.value}_file"] = folder / f"{split.value}.json"
        files[f"{split.value}_file"].write_text(json.dumps(data), encoding="utf-8")
        if split is Split.train:
            pieces = vocabulary.train(starter.texts(data), size=settings.vocabulary_size)
    files["vocab_file"] = folder / "vocab.txt"
    files["vocab_file"].write_text("\n".join(filled(pieces, size=VOCABULARY_SIZE)) + "\n", encoding="utf-8")
    return files


def filled(pieces: list[str], *, size: int) -> list[str]:
    """A vocabulary of exactly `size`: `pieces`, then BERT's `[unusedN]`."""
    return [*pieces, *(f"[unused{number}]" for number in range(size - len(pieces)))]


def _overrides(folder: Path, *, articles: dict[str, Path]) -> list[str]:
    """The command line of ours: one step, and the least that may follow it."""
    return [
        *("model=opt", "task=squad_v1", *(f"task.{key}={path}" for key, path in articles.items())),
        *(f"task.max_seq_length={LENGTH}", "task.doc_stride=32", "task.max_query_length=32"),
        *(f"task.global_batch_size={BATCH}", f"task.eval_batch_size={BATCH}"),
        *("trainer.max_steps=1", f"trainer.limit_eval={BATCH}"),
        *(f"output_dir={folder / 'outputs'}", f"cache_dir={folder / 'cache'}"),
    ]


def _trainer_job(overrides: list[str]) -> dict[str, object]:
    """What the peer needs: the same architecture, optimizer and records."""
    config = compose(overrides)
    (records,) = registry.create_task(config).features(Split.train).files
    return {
        "architecture": leaves(config.model),
        "optimizer": leaves(config.task.optimizer),
        "records": str(records),
        "batch": BATCH,
        "length": LENGTH,
    }
