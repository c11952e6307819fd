"""The page of the command line, from Typer."""

from typing import Any

import typer

from attrlib.cli.app import COMMANDS, app, load
from docs._build.markup import table, text

HEAD = """---
description: Every command of attrlib with its arguments and options.
---

# Command line

`attrlib COMMAND` and `python -m attrlib COMMAND` are the same. Errors end in one line on standard error and exit code 2, below the
usage if an option does not exist; a cancelled command exits with 130. With `--json`, a command prints one JSON object to standard output.

```bash
attrlib --help
attrlib score --help
```

{overview}

"""


def page() -> str:
    """Return the page."""
    # A command that is not imported is a stand-in without arguments and options.
    for name in COMMANDS:
        load(name)
    group: Any = typer.main.get_command(app)
    commands = {name: command for name, command in sorted(group.commands.items()) if not command.hidden}
    rows = [(f"[`{name}`](#{name})", text(sentence(command.help))) for name, command in commands.items()]
    parts = [HEAD.format(overview=table(("Command", "What it does"), rows))]
    shared = [option for option in group.params if not option.hidden and option.help]
    if shared:
        parts.append("## Options of every command\n\n" + options_table(shared, "attrlib"))
    parts += [section(name, command) for name, command in commands.items()]
    return "\n".join(parts)


def sentence(help_text: str | None) -> str:
    """Return the first sentence of a help text."""
    first = " ".join((help_text or "").split())
    return first.partition(". ")[0].rstrip(".") + "."


def section(name: str, command: Any) -> str:
    """Return the section of one command."""
    arguments = [p for p in command.params if p.param_type_name == "argument" and not p.hidden]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    parts = [f"## {name} {{ #{name} }}\n", f"```text\n{usage(name, arguments, options)}\n```\n", paragraphs(command.help)]
    if arguments:
        rows = [(f"`{metavar(p)}`", "required" if p.required else argument_default(p), text(p.help or "")) for p in arguments]
        parts.append(table(("Argument", "Default", "Meaning"), rows))
    if options:
        # Required options first, else in the order of the command.
        parts.append(options_table(sorted(options, key=lambda p: not p.required), name))
    return "\n".join(parts)


def paragraphs(help_text: str | None) -> str:
    """Return a help text as Markdown."""
    return text("\n".join(line.strip() for line in (help_text or "").strip().splitlines())) + "\n"


def usage(name: str, arguments: list[Any], options: list[Any]) -> str:
    """Return the usage line."""
    words = [metavar(p) if p.required else f"[{metavar(p)}]" for p in arguments]
    words += [f"{long(p)} {metavar(p)}" for p in options if p.required]
    return " ".join(["attrlib", name, *words, *(["[OPTIONS]"] if options else [])])


def options_table(options: list[Any], name: str) -> str:
    """Return the table of options. Each has an anchor, such as `score-limit`."""
    rows = []
    for p in options:
        flags = ", ".join([*p.opts, *p.secondary_opts])
        value = "" if p.is_flag else f" {metavar(p)}"
        anchor = f'<span id="{name}{long(p).lstrip("-").join(("-", ""))}"></span>'
        rows.append((f"{anchor}`{flags}{value}`", ("**Required.** " if p.required else "") + text(p.help or "") + default(p)))
    return f'<div class="options" markdown>\n\n{table(("Option", "Meaning"), rows)}\n</div>\n'


def metavar(parameter: Any) -> str:
    """Return the placeholder of a value."""
    if parameter.metavar:
        return str(parameter.metavar)
    kind = getattr(parameter.type_descriptor.annotation, "__name__", "") if hasattr(parameter, "type_descriptor") else ""
    if parameter.param_type_name == "argument":
        return parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
    return {"Path": "PATH", "int": "N", "float": "X"}.get(kind, "TEXT")


def long(option: Any) -> str:
    """Return the long flag of an option."""
    return max(option.opts, key=len)


def argument_default(parameter: Any) -> str:
    """Return the default of an argument."""
    return f"`{parameter.default}`" if isinstance(parameter.default, str) and parameter.default else "none"


def default(parameter: Any) -> str:
    """Return the default, where the help text does not say it."""
    if parameter.default in (None, "", False, (), []) or callable(parameter.default) or "default" in (parameter.help or ""):
        return ""
    return f" Default: `{parameter.default}`."
