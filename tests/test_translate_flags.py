"""Every flag of the original scripts has its place, in the code and in docs/coming-from-tf1.md."""

from __future__ import annotations

import re
import shlex

import pytest
from command_line import CHECKOUT, here

from mobilebert_exp.original_json import PUBLISHED
from mobilebert_exp.translate.flags import SCRIPTS, Flag, Script

PAGE = CHECKOUT / "docs" / "coming-from-tf1.md"


NAMES = {  # as the reference lists them
    "run_squad.py": """
        hub_module_url bert_config_file vocab_file output_dir data_dir train_file predict_file init_checkpoint
        do_lower_case max_seq_length doc_stride max_query_length do_train do_predict lite_model_path
        use_quantized_training use_post_quantization activation_quantization train_batch_size predict_batch_size
        learning_rate num_train_epochs warmup_proportion save_checkpoints_steps iterations_per_loop n_best_size
        max_answer_length use_tpu tpu_name tpu_zone gcp_project master verbose_logging version_2_with_negative
        null_score_diff_threshold export_dir
    """,
    "run_pretraining.py": """
        bert_config_file bert_teacher_config_file input_file output_dir init_checkpoint max_seq_length
        max_predictions_per_seq do_train do_eval train_batch_size eval_batch_size max_eval_steps learning_rate
        num_train_steps num_warmup_steps num_distill_steps save_checkpoints_steps iterations_per_loop use_tpu
        tpu_name tpu_zone gcp_project master use_einsum use_summary first_input_file first_max_seq_length
        first_train_batch_size first_num_train_steps optimizer layer_wise_warmup distill_temperature
        distill_ground_truth_ratio attention_distill_factor hidden_distill_factor gamma_distill_factor
        beta_distill_factor weight_decay_rate
    """,
    "run_classifier.py": """
        data_dir tfrecord_dir task_name max_seq_length train_batch_size eval_batch_size predict_batch_size
        lite_model_path use_post_quantization export_dir bert_config_file vocab_file output_dir init_checkpoint
        do_lower_case do_train do_eval do_predict learning_rate num_train_epochs warmup_proportion
        save_checkpoints_steps iterations_per_loop use_tpu tpu_name tpu_zone gcp_project master
    """,
    "create_pretraining_data.py": """
        input_file output_file vocab_file do_lower_case do_whole_word_mask max_seq_length max_predictions_per_seq
        random_seed dupe_factor masked_lm_prob short_seq_prob
    """,
}


@pytest.mark.parametrize("script", NAMES)
def test_every_flag_is_covered_or_refused(script: str) -> None:
    flags = SCRIPTS[script].flags
    assert set(NAMES[script].split()) | {"num_tpu_cores"} == set(flags) | {"num_tpu_cores"}
    for flag in flags.values():
        assert SCRIPTS[script].refused or bool(flag.refused) != bool(flag.key or flag.here), flag.name


def _row(flag: Flag) -> str:
    key = f"`{flag.key}`" if flag.key else ""
    here = f"— {flag.refused}" if flag.refused else "; ".join(part for part in (key, flag.here) if part)
    return f"| `{flag.name}` | {flag.default or '—'} | {here} |"


def _rows(script: Script) -> list[str]:
    return [_row(flag) for flag in script.flags.values()]


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=lambda script: script.name)
def test_the_page_holds_every_flag(script: Script) -> None:
    section = PAGE.read_text(encoding="utf-8").partition(f"\n### `{script.name}`\n")[2].partition("\n#")[0]
    if script.refused:
        assert re.findall(r"`(\w+)`", section.partition("Its flags:")[2]) == list(script.flags)
        assert script.refused.partition(" ")[0].lower() in section.lower()
    else:
        assert [line for line in section.splitlines() if line.startswith("| `")] == _rows(script)


def test_the_page_shows_what_is_printed() -> None:
    shown = re.findall(
        r"^```\n\$ (.+?[^\\])\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    assert len(shown) >= 3
    for command, output in shown:
        ended = here(*shlex.split(command.replace("\\\n", "").replace("'", "'"))[3:])
        assert ended.err + ended.out == output.replace(" \\\n  ", " ")


def test_the_page_names_the_published_models() -> None:
    found = dict(
        re.findall(r"^\| `([\w-]+)` \| `model=(\w+)` \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    assert found == PUBLISHED
