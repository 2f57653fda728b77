"""Shell completion as a static script: no dependency, and no start of Python for each press of Tab."""

from collections.abc import Iterable, Mapping

from hf_tl.parser import Parser, shown_names

SCRIPT = """\
# Completion of hf-tl: commands, flags and their choices; everything else is completed as file names.
_hf_tl() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} words=
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{commands} --help --version"
    else
        case "${{COMP_WORDS[1]}} $previous" in
{choices}
        *) case "$word" in -*) case "${{COMP_WORDS[1]}}" in
{flags}
            esac ;; esac ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _hf_tl hf-tl
"""
OF_ZSH = "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"


def completion_script(shell: str, parsers: Mapping[str, Parser]) -> str:
    """Return the completion script for bash, or for zsh, which reads the same after `bashcompinit`."""
    flags = [f'            {name}) words="{" ".join(_flags(parser))}" ;;' for name, parser in parsers.items()]
    choices = [
        f'        "{name} {flag}") words="{" ".join(values)}" ;;'
        for name, parser in parsers.items()
        for flag, values in _choices(parser).items()
    ]
    script = SCRIPT.format(commands=" ".join(parsers), choices="\n".join(choices), flags="\n".join(flags))
    return (OF_ZSH if shell == "zsh" else "") + script


def _flags(parser: Parser) -> list[str]:
    return [name for action in parser.flags() for name in shown_names(action)]


def _choices(parser: Parser) -> dict[str, Iterable[str]]:
    """Return the values of each flag with choices; those of a positional argument follow the command."""
    of_positional = {parser.prog.split()[1]: action.choices for action in parser.positionals() if action.choices}
    return {**parser.choices, **of_positional}
