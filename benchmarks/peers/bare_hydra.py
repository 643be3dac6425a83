"""The least program that Hydra can start: one key, and nothing to do."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path=".", config_name="bare_hydra")
def main(config: DictConfig) -> None:
    """Does nothing."""


if __name__ == "__main__":
    main()
