"""Completions for bash, zsh and fish, made from the parsers themselves, so that they know every option."""

from __future__ import annotations

import argparse

from . import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .main import Run

SHELLS = ("bash", "zsh", "fish")
_TEMPLATES = "autotrainer templates 2>/dev/null | cut -f1"
"""The shell command that lists the names of one's templates; one may have spaces."""
_TAKES_JOBS = ("show", "logs", "wait", "cancel", "retry", "hold", "release")
_FILTERS = {"hold": " -s queued", "release": " -s held", "cancel": "", "wait": ""}
"""Which jobs are offered; all that are known where a word is not here."""


class Option:
    """One option: its spellings, whether a value follows, what it is for."""

    __slots__ = ("choices", "help", "names", "takes_value")

    def __init__(self, action: argparse.Action) -> None:
        self.names = list(action.option_strings)
        self.takes_value = action.nargs != 0
        self.help = (action.help or "").partition("%")[0].replace("'", "").replace("[", "(").replace("]", ")").replace(":", ",")
        self.choices = [str(each) for each in action.choices or ()]


def options_of(word: str) -> list[Option]:
    from .main import parser_of

    return [Option(action) for action in parser_of(word)[0]._actions if action.option_strings]


def jobs_for(word: str) -> str:
    """The shell command that lists the numbers of the jobs to offer."""
    return f"autotrainer list{_FILTERS.get(word, ' -a -n 50')} 2>/dev/null"


# --- bash ---------------------------------------------------------------------------------------------------------------


_BASH = r"""# autotrainer: `eval "$(autotrainer completion bash)"` in ~/.bashrc
_autotrainer() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} word=${{COMP_WORDS[1]}} i options jobs
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "{all_words}" -- "$cur"))
        return
    fi
    for ((i = 2; i < COMP_CWORD; i++)); do
        if [[ ${{COMP_WORDS[i]}} == -- ]]; then
            if declare -F _command_offset >/dev/null; then _command_offset $((i + 1)); else COMPREPLY=($(compgen -c -f -- "$cur")); fi
            return
        fi
    done
    case $prev in
    -C | --directory | --environment) COMPREPLY=($(compgen -d -- "$cur")); return ;;
    -s | --state) COMPREPLY=($(compgen -W "{states}" -- "$cur")); return ;;
    --host) COMPREPLY=($(compgen -W "$(autotrainer hosts 2>/dev/null | cut -f1)" -- "$cur")); return ;;
    --after) COMPREPLY=($(compgen -W "$(autotrainer list 2>/dev/null | cut -f1)" -- "$cur")); return ;;
    --template)
        local IFS=$'\n'
        COMPREPLY=($(compgen -W "$({templates})" -- "$cur"))
        ((${{#COMPREPLY[@]}})) && COMPREPLY=($(printf '%q\n' "${{COMPREPLY[@]}}"))
        return
        ;;
    --on-host-loss) COMPREPLY=($(compgen -W "wait requeue" -- "$cur")); return ;;
    esac
    case $word in
{cases}
    esac
    if [[ $cur == -* ]]; then
        COMPREPLY=($(compgen -W "$options" -- "$cur"))
    elif [[ -n $jobs ]]; then
        COMPREPLY=($(compgen -W "$(eval "$jobs" | cut -f1)" -- "$cur"))
    elif [[ $word == completion ]]; then
        COMPREPLY=($(compgen -W "{shells}" -- "$cur"))
    fi
}}
complete -o bashdefault -o default -F _autotrainer autotrainer
"""


def bash(all_words: dict[str, str]) -> str:
    cases = []
    for word in all_words:
        names = " ".join(name for option in options_of(word) for name in option.names)
        jobs = f"; jobs='{jobs_for(word)}'" if word in _TAKES_JOBS else ""
        cases.append(f"    {word}) options='{names}'{jobs} ;;")
    given = {"all_words": " ".join(all_words), "states": " ".join(words.STATES), "shells": " ".join(SHELLS)}
    return _BASH.format(**given, templates=_TEMPLATES, cases="\n".join(cases))


# --- zsh ----------------------------------------------------------------------------------------------------------------


_ZSH = r"""#compdef autotrainer
# autotrainer: `eval "$(autotrainer completion zsh)"` in ~/.zshrc, after compinit
_autotrainer() {{
    local -a words_of_it
    words_of_it=(
{all_words}
    )
    if ((CURRENT == 2)); then
        _describe command words_of_it
        return
    fi
    case $words[2] in
{cases}
    esac
}}
_autotrainer_jobs() {{
    local -a found
    found=(${{(f)"$(eval "${{@[-1]}}" | awk -F '\t' '{{print $1 ":" $2 ", " $3}}')"}})
    _describe job found
}}
compdef _autotrainer autotrainer
"""
_ZSH_VALUES = {
    "-C": "directory:_files -/",
    "--directory": "directory:_files -/",
    "--environment": "directory:_files -/",
    "-s": f"state:({' '.join(words.STATES)})",
    "--state": f"state:({' '.join(words.STATES)})",
    "--template": 'template:{compadd -- ${(f)"$(' + _TEMPLATES + ')"}}',
}


def zsh(all_words: dict[str, str]) -> str:
    cases = []
    for word in all_words:
        specs = [_zsh_option(option, name) for option in options_of(word) for name in option.names]
        if word in _TAKES_JOBS:
            specs.append(f"'*:job:_autotrainer_jobs \"{jobs_for(word)}\"'")
        elif word in ("submit", "run"):
            specs.append("'*::command:_normal'")
        elif word == "completion":
            specs.append(f"'1:shell:({' '.join(SHELLS)})'")
        cases.append(f"    {word}) shift words; ((CURRENT--)); _arguments -S " + " ".join(specs) + " ;;")
    listed = "\n".join(f"        '{word}:{help_text}'" for word, help_text in all_words.items())
    return _ZSH.format(all_words=listed, cases="\n".join(cases))


def _zsh_option(option: Option, name: str) -> str:
    value = f":{_ZSH_VALUES.get(name, f'value:({chr(32).join(option.choices)})')}" if option.takes_value else ""
    return f"'*{name}[{option.help}]{value}'"


# --- fish ---------------------------------------------------------------------------------------------------------------


def fish(all_words: dict[str, str]) -> str:
    lines = ["# autotrainer: `autotrainer completion fish > ~/.config/fish/completions/autotrainer.fish`", "complete -c autotrainer -f"]
    for word, help_text in all_words.items():
        lines.append(f"complete -c autotrainer -n __fish_use_subcommand -a {word} -d '{help_text}'")
        seen = f"-n '__fish_seen_subcommand_from {word}'"
        lines += [f"complete -c autotrainer {seen} {_fish_option(option)}" for option in options_of(word)]
        if word in _TAKES_JOBS:
            lines.append(f'complete -c autotrainer {seen} -a "({jobs_for(word)} | cut -f1,3)"')
        elif word in ("submit", "run"):
            lines.append(f"complete -c autotrainer {seen} -F")
        elif word == "completion":
            lines.append(f"complete -c autotrainer {seen} -a '{' '.join(SHELLS)}'")
    return "\n".join(lines) + "\n"


def _fish_option(option: Option) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    choices = f" -a '{' '.join(option.choices)}'" if option.choices else f' -a "({_TEMPLATES})"' if "--template" in option.names else ""
    return f"{names}{' -r' if option.takes_value else ''}{choices} -d '{option.help}'"


def _completion(parser: argparse.ArgumentParser) -> Run:
    parser.add_argument("shell", choices=SHELLS)
    return _do_completion


def _do_completion(options: argparse.Namespace) -> int:
    from .main import COMMANDS

    all_words = {word: help_text for word, (_, help_text) in COMMANDS.items()}
    print({"bash": bash, "zsh": zsh, "fish": fish}[options.shell](all_words), end="")
    return 0


PARSERS = {"completion": _completion}
