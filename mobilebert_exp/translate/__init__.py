"""The verb `translate`: a command of the original scripts as one of ours, on standard output.

Notes and refusals go to standard error, a line each. A command is printed only if all of it is the same experiment.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from mobilebert_exp.errors import ConfigError
from mobilebert_exp.spelling import nearest
from mobilebert_exp.translate.command_line import setting, shell_word, shown, words
from mobilebert_exp.translate.flags import SCRIPTS, parse
from mobilebert_exp.translate.settings import translated

USAGE = """\
python -m mobilebert_exp translate -- python3 run_squad.py --bert_config_file=FILE ...
python -m mobilebert_exp translate 'python3 run_squad.py --vocab_file=${DIR}/vocab.txt ...'

Prints the command of mobilebert_exp that does the same. In one quoted argument, lines may go on after a backslash and
shell variables stay variables. Scripts: %s."""
MODEL_GARDEN = ("train.py", "run_distillation.py")  # of tensorflow/models
COMMAND = "python -m mobilebert_exp"
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


def main(arguments: list[str]) -> int:
    """Prints the translation; 0 if there is one, 2 if something of the command is refused.

    Raises:
      ConfigError: the command cannot be read, or the original would refuse it too.
    """
    arguments = arguments[1:] if arguments[:1] == ["--"] else arguments
    if not arguments or arguments[0] in ("--help", "-h"):
        print(USAGE % ", ".join(SCRIPTS), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    is_text = len(arguments) == 1 and " " in arguments[0].strip()
    assignments, name, flags = _split(words(arguments[0]) if is_text else arguments)
    script = SCRIPTS[name]
    found = translated(script, parse(script, flags))
    for refusal in found.refusals:
        print(f"error: {shown(refusal)}", file=sys.stderr)
    if found.refusals:
        return 2
    for note in found.notes:
        print(f"note: {shown(note)}", file=sys.stderr)
    if script.verb:
        settings = [script.verb, *(shell_word(f"{key}={value}") for key, value in found.settings.items())]
    else:
        settings = [setting(key, value) for key, value in found.settings.items()]
    print(" ".join([*(_assigned(each) for each in assignments), COMMAND, *settings]))
    return 0


def _split(command: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Assignments before the command, the script's name, and what follows it; Python and its options go."""
    names = [word.rsplit("/", 1)[-1] for word in command]
    modules = [f"{name.removesuffix('.py').rsplit('.', 1)[-1]}.py" for name in names]  # -m mobilebert.run_squad
    at = next((index for index, name in enumerate(modules) if name in SCRIPTS), None)
    if at is not None:
        return [word for word in command[:at] if ASSIGNMENT.fullmatch(word)], modules[at], list(command[at + 1 :])
    wrong = next((name for name in names if name.endswith(".py")), "")
    if wrong in MODEL_GARDEN:
        raise ConfigError(
            f"{wrong} is configured by YAML files, which are not translated; docs/configuration.md has ours"
        )
    near = nearest(wrong, [*SCRIPTS])
    hint = f"did you mean {near}?" if near else f"it may be {', '.join(SCRIPTS)}"
    raise ConfigError(f"{shown(wrong) or 'the command'} is not a script that can be translated; {hint}")


def _assigned(assignment: str) -> str:
    name, _, value = assignment.partition("=")
    return f"{name}={shell_word(value)}"
