"""What pre-training data are made with: flags of the original `create_pretraining_data.py`, and what they may be."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mobilebert_exp.checks import require

LEAST_LENGTH = 5  # [CLS] a [SEP] b [SEP]
MOST_LENGTH = 2**14  # positions and random bits share 32 bits when masks are drawn
MOST_SEED = 2**63
MASKED, KEPT = 0.8, 0.9  # a coin below the first makes a token [MASK], one below the second keeps it, else it is random


class BadBytes(enum.Enum):
    """What happens where a text is not UTF-8: it is refused, or the bytes are dropped as the original drops them."""

    refuse = "refuse"
    drop = "drop"


@dataclass(kw_only=True, frozen=True, slots=True)
class Settings:
    """The defaults are the original's.

    Attributes:
      max_seq_length: tokens of a record, [CLS] and both [SEP] among them.
      max_predictions_per_seq: at most so many of them are masked.
      masked_lm_prob: the share of a record's tokens that is masked.
      short_seq_prob: the share of documents that is cut into shorter sequences, for once.
      dupe_factor: how often the text is gone through, with other pairs and masks each time.
      random_seed: the same seed gives the same files.
      whole_word_mask: all pieces of a word are masked, or none.
      bad_bytes: see `BadBytes`.
    """

    max_seq_length: int = 128
    max_predictions_per_seq: int = 20
    masked_lm_prob: float = 0.15
    short_seq_prob: float = 0.1
    dupe_factor: int = 10
    random_seed: int = 12345
    whole_word_mask: bool = False
    bad_bytes: BadBytes = BadBytes.refuse

    @property
    def room(self) -> int:
        """Tokens of the two texts together."""
        return self.max_seq_length - 3

    def key(self) -> dict[str, object]:
        """All of it, JSON-serialisable."""
        return {
            "max_seq_length": self.max_seq_length,
            "max_predictions_per_seq": self.max_predictions_per_seq,
            "masked_lm_prob": self.masked_lm_prob,
            "short_seq_prob": self.short_seq_prob,
            "dupe_factor": self.dupe_factor,
            "random_seed": self.random_seed,
            "whole_word_mask": self.whole_word_mask,
            "bad_bytes": self.bad_bytes.value,
        }


def check(settings: Settings, *, section: str = "") -> None:
    """Raises ConfigError for a value that cannot work; `section` is what stands before a key, e.g. `task.`."""
    length, seed = settings.max_seq_length, settings.random_seed
    require(length >= LEAST_LENGTH, f"{section}max_seq_length={length} is below {LEAST_LENGTH}; raise it")
    require(length <= MOST_LENGTH, f"{section}max_seq_length={length} is above {MOST_LENGTH}; lower it")
    for name, count in (
        ("max_predictions_per_seq", settings.max_predictions_per_seq),
        ("dupe_factor", settings.dupe_factor),
    ):
        require(count >= 1, f"{section}{name}={count} is below 1; raise it")
    require(0 <= seed < MOST_SEED, f"{section}random_seed={seed} is not between 0 and 2^63; choose another")
    masked, short = settings.masked_lm_prob, settings.short_seq_prob
    require(0 < masked <= 1, f"{section}masked_lm_prob={masked} is not a share above 0; choose one in (0, 1]")
    require(0 <= short <= 1, f"{section}short_seq_prob={short} is not a probability; choose one in [0, 1]")


def advice(settings: Settings, *, section: str = "") -> str | None:
    """A warning where `max_predictions_per_seq` keeps long sequences from being masked as often as they should be."""
    wanted = masked_of(settings.max_seq_length, settings.masked_lm_prob)
    most = settings.max_predictions_per_seq
    if most >= wanted:
        return None
    length = settings.max_seq_length
    return (
        f"{section}max_predictions_per_seq={most} masks {most / length:.1%} of {length} tokens, and "
        f"{section}masked_lm_prob={settings.masked_lm_prob} asks for {wanted}: raise it to {wanted}"
    )


def masked_of(tokens: int, share: float) -> int:
    """How many of a sequence's tokens are masked, as the original rounds."""
    return max(1, round(tokens * share))
