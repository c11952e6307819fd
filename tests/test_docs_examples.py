"""The documentation's examples: Python runs, commands and flags exist, and the messages it explains are those of the code."""

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import attrlib
from attrlib.cli.app import COMMANDS as ENTRIES
from attrlib.cli.app import app, load

ROOT = Path(__file__).parents[1]
GENERATED = {"findings.md", "fractions.md"}
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.name not in GENERATED)]
BLOCK = re.compile(r"^(?P<indent> *)```(?P<kind>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(attrlib [^`\n]+)`")
MESSAGES = ("message", "you see")
"""Headings of the columns that hold messages of attrlib."""
OTHERS = "## Installing"
"""Section of messages of other programs."""
SEPARATOR = re.compile(r"(?:&&|\||;|\$\()(?=(?:[^']*'[^']*')*[^']*$)")
"""What ends a command of a shell, outside of single quotes."""
RUNNER = """
import sys
for block in sys.stdin.read().split("\\0"):
    place, _, code = block.partition("\\n")
    exec(compile(code, place, "exec"), globals())
"""
for _name in ENTRIES:
    load(_name)
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def blocks(page: Path, *kinds: str) -> Iterator[tuple[int, str]]:
    """Yield line number and text of the fenced blocks of these kinds. Python that is not to be run is marked `{.python .no-test}`."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        if found["kind"].strip().partition(" ")[0] in kinds:
            code = re.sub(rf"^{found['indent']}", "", found["code"], flags=re.MULTILINE)
            yield text[: found.start()].count("\n") + 2, code


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if any(blocks(p, "python"))], ids=name_of)
def test_python_of_a_page_runs(page, tmp_path):
    # Blank lines keep the line numbers of tracebacks those of the page.
    code = "\0".join(f"{name_of(page)}\n" + "\n" * (line - 1) + block for line, block in blocks(page, "python"))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ATTRLIB_CACHE": str(tmp_path / "cache"), "ATTRLIB_METHODS": ""}
    ran = subprocess.run(
        [sys.executable, "-c", RUNNER], input=code, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of every call of attrlib in the shell blocks and the running text of a page."""
    for _, code in blocks(page, "bash", "sh", "shell", "console"):
        for line in code.replace("\\\n", " ").splitlines():
            for part in SEPARATOR.split(line.removeprefix("$ ")):
                words = shlex.split(part.strip(" )"), comments=True)
                if "-m" in words and words[words.index("-m") + 1 :][:1] == ["attrlib"]:
                    words = words[words.index("-m") + 1 :]
                while words and re.fullmatch(r"\w+=.*", words[0]):
                    words = words[1:]
                if words[:1] == ["attrlib"]:
                    yield words[1:]
    for found in INLINE.finditer(BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"attrlib( --?\w| [a-z]+($| ))", found[1]):
            yield shlex.split(found[1])[1:]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_command_lines_exist(page):
    for words in commands(page):
        assert words, "attrlib alone shows the help; write attrlib --help"
        if words[0] in ("--help", "--version", "COMMAND"):
            continue
        assert words[0] in COMMANDS, f"there is no command {words[0]!r}: attrlib {shlex.join(words)}"
        known = {"--help", *(flag for param in COMMANDS[words[0]].params for flag in param.opts)}
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert flags <= known, f"attrlib {words[0]} has no {', '.join(sorted(flags - known))}"


def test_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 800


def texts(path: Path) -> Iterator[str]:
    """Yield the string literals of a module, joined where Python joins them, with a NUL for everything that is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)


def messages(page: Path) -> Iterator[str]:
    """Yield the messages in the tables of a page, without those of other programs."""
    section, column = "", None
    lines = page.read_text(encoding="utf-8").splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        section = line if line.startswith("## ") else section
        cells = [cell.strip() for cell in line.strip("|").split(" | ")] if line.startswith("| ") else []
        if re.fullmatch(r"\|[-|]+\|", following):
            column = next((k for k, cell in enumerate(cells) if cell in MESSAGES), None)
        elif cells and column is not None and section != OTHERS:
            yield from re.findall(r"`([^`]+)`", cells[column])


def test_messages_in_the_documentation_are_those_of_the_code():
    code = "\n".join(text for folder in ("attrlib", "pages") for path in (ROOT / folder).rglob("*.py") for text in texts(path))
    quoted = [(page, message) for page in PAGES for message in messages(page)]
    missing = []
    for page, message in quoted:
        # `unknown` in attrlib/errors.py puts its messages together from parts.
        if message.startswith("unknown "):
            continue
        # What messages fill in is written as ..., as a capital letter or as an example in the documentation.
        parts = re.split(r"\.\.\.|'|\b[A-Z]+(?:\.\w+)?\b|\d[\d.]*|[@()=;:,]", message)
        missing += [f"{name_of(page)}: {part!r} of {message!r}" for p in parts if len(part := p.strip()) > 12 and part not in code]
    assert missing == []
    assert {name_of(page) for page, _ in quoted} >= {"docs/troubleshooting.md", "docs/reference/bring.md", "docs/guides/score.md"}


CALLS = re.compile(r"`(?:attrlib\.)?(\w+)(\([^`]*\))`")


def test_calls_in_the_text_of_the_documentation_have_arguments_that_exist():
    unknown = []
    for page in PAGES:
        for name, arguments in CALLS.findall(BLOCK.sub("", page.read_text(encoding="utf-8"))):
            function = getattr(attrlib, name, None)
            if not inspect.isfunction(function):
                continue
            parameters = inspect.signature(function).parameters.values()
            if any(p.kind is p.VAR_KEYWORD for p in parameters):
                continue
            call = ast.parse(name + arguments, mode="eval").body
            unknown += [f"{name_of(page)}: {k.arg} of {name}" for k in call.keywords if k.arg not in {p.name for p in parameters}]
    assert unknown == []
