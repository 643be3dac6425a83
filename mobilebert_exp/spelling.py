"""What a person probably meant: the option or the key that resembles most what they wrote."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

ALIKE = 0.6  # of 1; below it a suggestion would be a guess
SHORTEST_START = 3  # letters that tell what is meant
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


OPTIONS = {  # what people call our options, where the two resemble each other too little
    "mobilebert": "opt",  # the published one
    "mobilebert_uncased": "opt",
    "mobilebert_tiny": "tiny",
    "mobilebert_teacher": "teacher",
    "ib_bert": "teacher",
    "mbert": "multilingual",
    "cuda": "gpu",
}


def nearest(word: str, options: Sequence[str]) -> str:
    """The option most like `word`, or "" when none is.

    First one that differs in case and signs alone, then one that is called so elsewhere, then the shortest of those
    that begin like it, then the one with the most letters in common.
    """
    if equal := same(word, options):
        return equal
    plain = _plain(word)
    called = [option for name, option in OPTIONS.items() if _plain(name) == plain and option in options]
    longer = [option for option in options if len(plain) >= SHORTEST_START and _plain(option).startswith(plain)]
    close = difflib.get_close_matches(word, options, n=1, cutoff=ALIKE)
    return next(iter([*called, *sorted(longer, key=len), *close]), "")


def same(word: str, options: Iterable[str]) -> str:
    """The option that differs from `word` in case and signs alone, or ""."""
    return next((option for option in options if _plain(option) == _plain(word)), "")


def _plain(word: str) -> str:
    """Small letters and digits alone: `SST-2` is `sst2`."""
    return "".join(filter(str.isalnum, word.casefold()))


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
