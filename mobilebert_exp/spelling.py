"""What a person probably meant: the option or the key that resembles most what they wrote."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

ALIKE = 0.6  # of 1; below it a suggestion would be a guess
ALIASES = {  # flags of the original scripts, and habits from elsewhere, that resemble our names too little
    "batch_size": "task.global_batch_size",
    "train_batch_size": "task.global_batch_size",
    "predict_batch_size": "task.eval_batch_size",
    "predict_file": "task.dev_file",
    "do_train": "mode",
    "do_predict": "mode",
    "bert_config_file": "model",
    "data_dir": "data_root",
    "num_train_steps": "trainer.max_steps",
    "iterations_per_loop": "hardware.steps_per_loop",
    "save_checkpoints_steps": "trainer.checkpoint_every_steps",
    "dropout": "model.hidden_dropout",
    "warmup": "task.optimizer.warmup_proportion",
    "precision": "hardware.dtype",
    "num_gpus": "hardware.num_replicas",
    "gpus": "hardware.num_replicas",
}


def nearest(word: str, options: Sequence[str]) -> str:
    """The option most like `word`, or "" when none is."""
    return next(iter(difflib.get_close_matches(word, options, n=1, cutoff=ALIKE)), "")


def nearest_key(key: str, known: Iterable[str]) -> str:
    """The dotted key most like `key`, or "" when none is.

    The last part decides, and sections only between equals: `learning_rate` and `optimizer.learnin_rate` both mean
    `task.optimizer.learning_rate`; so does `lr`, by its initials.
    """
    candidates = list(known)
    joined = {name.replace(".", "_"): name for name in candidates}  # tracking_uri means tracking.uri
    exact = joined.get(key.replace(".", "_"), ALIASES.get(_leaf(key), ""))
    if exact in candidates:
        return exact
    scored = [(_alike(_leaf(key), _leaf(name)), _ratio(key, name), name) for name in candidates]
    best = max(scored, default=(0.0, 0.0, ""))
    return best[2] if best[0] >= ALIKE else ""


def _leaf(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _alike(wrong: str, right: str) -> float:
    """How like two names are, 0 to 1: letter by letter, word by word, or as initials."""
    letters = _ratio(wrong, right)
    few, many = sorted((wrong.split("_"), right.split("_")), key=len)
    if all(any(_same_word(word, other) for other in many) for word in few):
        return max(letters, 0.7 + 0.2 * letters)
    initials = "".join(word[:1] for word in right.split("_"))
    return max(letters, 0.8 if len(wrong) > 1 and wrong == initials else 0.0)


def _same_word(word: str, other: str) -> bool:
    """Equal, or one an abbreviation of the other: `len` and `length`."""
    short, long = sorted((word, other), key=len)
    return short == long or (len(short) >= 3 and long.startswith(short))


def _ratio(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()
