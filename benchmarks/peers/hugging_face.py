"""Hugging Face's `MobileBertForQuestionAnswering` in eager PyTorch, with the AdamW of its own trainer (fused)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import transformers

from benchmarks.peers.worker import Model, random_batch, serve

NOT_DECAYED = ("bias", "LayerNorm.weight")


def configuration(architecture: Mapping[str, Any]) -> transformers.MobileBertConfig:
    """Its names for our architecture."""
    return transformers.MobileBertConfig(
        vocab_size=architecture["vocab_size"],
        embedding_size=architecture["embedding_size"],
        hidden_size=architecture["hidden_size"],
        intra_bottleneck_size=architecture["intra_bottleneck_size"],
        intermediate_size=architecture["intermediate_size"],
        num_hidden_layers=architecture["num_layers"],
        num_attention_heads=architecture["num_heads"],
        num_feedforward_networks=architecture["num_feedforward_networks"],
        hidden_act=architecture["hidden_act"],
        hidden_dropout_prob=architecture["hidden_dropout"],
        attention_probs_dropout_prob=architecture["attention_dropout"],
        use_bottleneck_attention=architecture["use_bottleneck_attention"],
        key_query_shared_bottleneck=architecture["key_query_shared_bottleneck"],
        normalization_type=architecture["normalization"],
        classifier_activation=architecture["classifier_activation"],
        max_position_embeddings=architecture["max_positions"],
        type_vocab_size=architecture["type_vocab_size"],
        initializer_range=architecture["initializer_range"],
    )


def build(job: Mapping[str, Any]) -> Model:
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    model = transformers.MobileBertForQuestionAnswering(configuration(job["architecture"])).train()
    settings = job["optimizer"]
    others = [value for name, value in model.named_parameters() if name.endswith(NOT_DECAYED)]
    decayed = [value for name, value in model.named_parameters() if not name.endswith(NOT_DECAYED)]
    groups = [
        {"params": decayed, "weight_decay": settings["weight_decay"]},
        {"params": others, "weight_decay": 0.0},
    ]
    betas = (settings["beta_1"], settings["beta_2"])
    optimizer = torch.optim.AdamW(
        groups, lr=settings["learning_rate"], betas=betas, eps=settings["epsilon"], fused=True
    )
    batch = {name: torch.from_numpy(value).long() for name, value in random_batch(job).items()}
    inputs = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["input_mask"],
        "token_type_ids": batch["segment_ids"],
        "start_positions": batch["start_positions"],
        "end_positions": batch["end_positions"],
    }

    def step() -> float:
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["gradient_clip_norm"])
        optimizer.step()
        return float(loss.detach())

    return Model(step=step, parameters=sum(value.numel() for value in model.parameters()))


if __name__ == "__main__":
    serve(build)
