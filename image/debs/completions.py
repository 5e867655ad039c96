"""Writes the completions of bash, zsh and fish: `completions.py DIRECTORY`.

They are static: a shell that asked the program itself would wait half a second on a small board.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

from commands import Argument, Command, whole

NAMES = {"bash": "edge", "zsh": "_edge", "fish": "edge.fish"}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] in ("-h", "--help"):
        sys.stderr.write(f"{__doc__}\n")
        return 0 if arguments[:1] == ["--help"] else 64
    command = whole()
    for shell, text in (("bash", bash(command)), ("zsh", zsh(command)), ("fish", fish(command))):
        path = Path(arguments[0]) / shell / NAMES[shell]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


def flags(options: Iterable[Argument]) -> list[str]:
    return [flag for option in options for flag in option.flags]


def unique(texts: Iterable[str]) -> str:
    return " ".join(dict.fromkeys(texts))


# bash: one case for the words of a command, one for the value of an option.

BASH = """\
# bash completion of edge; made from its command line.

_edge() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} path="edge" i
    # A completion that ends in "=" or ":" would be cut there.
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$path ${{COMP_WORDS[i]}}" in
            {paths}) path="$path ${{COMP_WORDS[i]}}" ;;
        esac
    done
    COMPREPLY=()
    case "$path:$before" in
{values}
    esac
    case "$path" in
{words}
    esac
}}

complete -F _edge edge
"""


def bash(command: Command) -> str:
    paths = [f'"{" ".join(each.path)}"' for each in command.all() if len(each.path) > 1]
    return BASH.format(
        paths=" | ".join(paths),
        values="\n".join(
            _bash_value(each, option)
            for each in command.all()
            for option in each.options
            if option.value
        ),
        words="\n".join(map(_bash_words, command.all())),
    )


def _bash_value(command: Command, option: Argument) -> str:
    patterns = " | ".join(f'"{" ".join(command.path)}:{flag}"' for flag in option.flags)
    return f"        {patterns}) {_bash_reply(option)}; return ;;"


def _bash_reply(argument: Argument) -> str:
    match argument.kind:
        case "choice":
            return f'mapfile -t COMPREPLY < <(compgen -W "{" ".join(argument.choices)}" -- "$word")'
        case "file":
            return 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word")'
        case "directory":
            return 'compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$word")'
    return ":"


def _bash_words(command: Command) -> str:
    known = unique([*(each.path[-1] for each in command.commands), *flags(command.options)])
    lines = [f'        "{" ".join(command.path)}")']
    lines.append(f'            mapfile -t COMPREPLY < <(compgen -W "{known}" -- "$word")')
    if any(positional.kind == "file" for positional in command.positionals):
        lines.append(
            "            [[ $word == -* ]] || { compopt -o filenames; mapfile -t COMPREPLY"
            ' < <(compgen -f -- "$word"); }'
        )
    return "\n".join([*lines, "            ;;"])


# zsh: one function for each command, of _arguments.


def zsh(command: Command) -> str:
    functions = "\n".join(_zsh_function(each) for each in command.all())
    return (
        f"#compdef edge\n# zsh completion of edge; made from its command line.\n\n{functions}\n"
        '_edge "$@"\n'
    )


def _zsh_name(command: Command) -> str:
    return "_" + "_".join(part.replace("-", "_") for part in command.path)


def _zsh_function(command: Command) -> str:
    specs = [_zsh_option(option) for option in command.options]
    specs += [
        f"'{number}:{_zsh_text(positional.value)}:{_zsh_action(positional)}'"
        for number, positional in enumerate(command.positionals, 1)
    ]
    if not command.commands:
        body = " \\\n        ".join(["_arguments -s", *specs])
        return f"{_zsh_name(command)}() {{\n    {body}\n}}\n"
    specs += ["'1:verb:->verb'", "'*::argument:->argument'"]
    body = " \\\n        ".join(["_arguments -C", *specs])
    verbs = "\n".join(
        f"                '{each.path[-1]}:{_zsh_text(each.help)}'" for each in command.commands
    )
    cases = "\n".join(
        f"                {each.path[-1]}) {_zsh_name(each)} ;;" for each in command.commands
    )
    return (
        f"{_zsh_name(command)}() {{\n    local state line verbs\n    {body}\n"
        f"    case $state in\n        verb)\n            verbs=(\n{verbs}\n            )\n"
        "            _describe verb verbs\n            ;;\n"
        f"        argument)\n            case $line[1] in\n{cases}\n            esac\n"
        "            ;;\n    esac\n}\n"
    )


def _zsh_option(option: Argument) -> str:
    text = f"[{_zsh_text(option.help)}]"
    value = f":{_zsh_text(option.value)}:{_zsh_action(option)}" if option.value else ""
    if len(option.flags) == 1:
        return f"'*{option.flags[0]}{text}{value}'"
    return f"'*'{{{','.join(option.flags)}}}'{text}{value}'"


def _zsh_action(argument: Argument) -> str:
    match argument.kind:
        case "choice":
            return f"({' '.join(argument.choices)})"
        case "file":
            return "_files"
        case "directory":
            return "_files -/"
    return " "


def _zsh_text(text: str) -> str:
    """Within single quotes, where `:`, `[` and `]` have a meaning."""
    return re.sub(r"([\[\]:\\])", r"\\\1", text.replace("'", "’"))


# fish: one line for each word.


def fish(command: Command) -> str:
    lines = ["# fish completion of edge; made from its command line.", "complete -c edge -f"]
    for each in command.all():
        condition = _fish_condition(each)
        lines += [
            f"complete -c edge {condition} -a {verb.path[-1]} -d {_fish(verb.help)}"
            for verb in each.commands
        ]
        lines += [f"complete -c edge {condition} {_fish_option(option)}" for option in each.options]
        if any(positional.kind == "file" for positional in each.positionals):
            lines.append(f"complete -c edge {condition} -F")
    return "\n".join(lines) + "\n"


def _fish_condition(command: Command) -> str:
    seen = [f"__fish_seen_subcommand_from {word}" for word in command.path[1:]]
    below = unique(each.path[-1] for each in command.commands)
    if below:
        seen.append(f"not __fish_seen_subcommand_from {below}")
    # A verb of "fleet" that is a verb of the program as well is not taken for that one.
    if len(command.path) == 2 and not command.commands:
        seen.append("not __fish_seen_subcommand_from fleet")
    return f"-n {_fish('; and '.join(seen))}"


def _fish_option(option: Argument) -> str:
    words = [
        f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags
    ]
    match option.kind:
        case "choice":
            words.append(f"-x -a {_fish(' '.join(option.choices))}")
        case "file":
            words.append("-r -F")
        case "directory":
            words.append("-x -a '(__fish_complete_directories)'")
        case "text":
            words.append("-x")
    return " ".join([*words, f"-d {_fish(option.help)}"])


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
