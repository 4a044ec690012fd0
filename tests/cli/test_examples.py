"""Every `ssabench` command line that we show can be parsed: in the workflows, the Markdown files and the help."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from cli.app import app

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "kernels" / "README.md"]


def commands(lines: str) -> Iterator[list[str]]:
    """The arguments of each call of ssabench in lines of shell: after `;`, `&&`, `do` or another program."""
    for line in re.sub(r"\\\n", " ", lines).splitlines():
        lexer = shlex.shlex(re.sub(r"(^|\s)#.*", "", line), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|()<>"):
                if "ssabench" in words:
                    yield words[words.index("ssabench") + 1 :]
                words = []
            else:
                words.append(word)


def shown() -> Iterator[tuple[str, list[str]]]:
    for path in WORKFLOWS:
        # Commented jobs rot as others do.
        lines = [re.sub(r"^\s*(# +)?(- )?(run: )?", "", line) for line in path.read_text().splitlines()]
        shell = "\n".join(line for line in lines if re.match(r"ssabench |--", line))
        yield from ((path.name, words) for words in commands(shell))
    for path in PAGES:
        for block in re.findall(r"^```bash\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
            yield from ((path.name, words) for words in commands(block))
    yield from _in_help(get_command(app), "ssabench")


def _in_help(command: Any, name: str) -> Iterator[tuple[str, list[str]]]:
    _, _, examples = (command.help or "").partition("\b\n")
    if not hasattr(command, "commands"):
        yield from ((f"{name} --help", words) for words in commands(examples))
    for child, subcommand in getattr(command, "commands", {}).items():
        yield from _in_help(subcommand, f"{name} {child}")


def parse(words: list[str]) -> None:
    """Parse as the command line does, without running anything."""
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands, f"no such command: {name}"
        command = command.commands[name]
    command.make_context(command.name, words)


@pytest.mark.parametrize("words", [pytest.param(words, id=f"{where}: {shlex.join(words)}") for where, words in shown()])
def test_a_shown_command_line_can_be_parsed(words: list[str]) -> None:
    parse(words)


@pytest.mark.parametrize("words", [["speed", "--tokenz", "8K"], ["spede"], ["profile"], ["speed", "--dtype", "int8"]])
def test_a_wrong_command_line_cannot(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|missing|is not one of"):
        parse(words)


def test_there_are_command_lines_to_look_at() -> None:
    found = [(where, words[0]) for where, words in shown()]
    for expected in [
        *(("benchmark.yml", command) for command in ("compare", "speed", "history", "report", "profile")),
        *(("README.md", command) for command in ("speed", "calibrate", "profile", "capture", "tune", "reproduce")),
        *((f"ssabench {command} --help", command) for command in ("speed", "compare", "check", "profile")),
    ]:
        assert expected in found


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("for i in 1 2; do ssabench speed --out run$i.jsonl; done", [["speed", "--out", "run$i.jsonl"]]),
        ("ssabench check && ssabench info # both", [["check"], ["info"]]),
        ("A=1 ssabench speed \\\n  --tokens 8K", [["speed", "--tokens", "8K"]]),
        ("nsys profile ssabench profile slc --bare | tee log", [["profile", "slc", "--bare"]]),
        ("ssabench speed --provider 'ssa-*'  # quick", [["speed", "--provider", "ssa-*"]]),
    ],
)
def test_commands_are_found_in_lines_of_shell(line: str, expected: list[list[str]]) -> None:
    assert list(commands(line)) == expected
