"""The application of the command line: its commands, each imported when it is used, so that `attrlib --help` needs no torch."""

import importlib
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

import attrlib


class Entry(NamedTuple):
    """A command: the module of `attrlib.cli` that defines it, and its summary in the list of commands."""

    module: str
    summary: str


COMMANDS = {
    "app": Entry("serve", "Open the app in a browser."),
    "explain": Entry("explain", "Explain one image with several methods."),
    "score": Entry("score", "Score methods under protocols on a data set. Cached results are not computed again."),
    "aggregate": Entry(
        "aggregate",
        "Sort each method's maps on a data set by score, and average them in bins (AggAtt). Cached results are not computed again.",
    ),
    "tune": Entry(
        "tune",
        "Search the parameters of a method for the best score, and judge it on held-out items. Cached results are not computed again.",
    ),
    "roar": Entry(
        "roar",
        "Train small networks without the pixels that methods hold relevant (ROAR), or with only those (KAR). Stored results are not trained again.",
    ),
    "study": Entry("study", "Answer a question about models, methods and data. Cached results are not computed again."),
    "studies": Entry("study", "List studies with their parameters."),
    "submit": Entry("submit", "Write the scores of a finished run with all digests into a file for a leaderboard."),
    "leaderboard": Entry("submit", "Render submissions as a static page. Files that do not verify are refused; exit code 2 if none does."),
    "montage": Entry("montage", "Draw one image explained by all methods, for the class that the model predicts."),
    "doctor": Entry(
        "doctor",
        "Probe which methods work on a model and at which layers, why others do not, and what they cost. Exit code 1 if a method changes the model.",
    ),
    "finetune": Entry(
        "finetune",
        "Fine-tune a model, by default for IDSDS: one patch is deleted from half of the images. Run the same command again to resume.",
    ),
    "models": Entry("lists", "List models."),
    "add": Entry("add", "Add a checkpoint to the models of this computer, with its architecture, preprocessing and outputs."),
    "remove": Entry("add", "Remove an added model; a file that was not copied stays."),
    "download": Entry("lists", "Download a published checkpoint into the cache folder."),
    "methods": Entry(
        "lists", "List attribution methods with their parameters. Custom methods that could not be loaded go to standard error."
    ),
    "targets": Entry(
        "lists",
        "List targets, what a map explains of the outputs, with their parameters; used as in --methods Grad-CAM:target=contrast:k=3.",
    ),
    "presets": Entry("lists", "List presets: the methods of published studies with their settings, used as in --methods idsds."),
    "protocols": Entry("lists", "List protocols with their parameters."),
    "datasets": Entry("lists", "List named data sets, or describe one: its images and classes, what was assumed, and what was left out."),
    "licences": Entry("licences", "List the installed dependencies with their licences, as the packages state them."),
    "cache": Entry("cache", "Inspect, verify, prune, export or merge stored results."),
}
"""All commands in the order of the help text. A test compares the summaries with those of the commands."""


class LazyGroup(TyperGroup):
    """A group that knows the summaries of its commands, and imports a command when it is called."""

    # Typer brings its own copy of Click, whose types are not public.
    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, or a stand-in with its summary while it is not imported."""
        entry = COMMANDS.get(cmd_name)
        return self.commands.get(cmd_name) or (entry and TyperCommand(cmd_name, help=entry.summary))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command that is called, and return it."""
        load(args[0])
        self.commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
        return super().resolve_command(ctx, args)


def load(name: str) -> None:
    """Import the module that defines a command, if there is such a command."""
    if name in COMMANDS:
        importlib.import_module(f"attrlib.cli.{COMMANDS[name].module}")


app = typer.Typer(
    cls=LazyGroup,
    help="Explore and judge attribution maps of image classifiers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"attrlib {attrlib.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)] = False,
) -> None:
    """Explore and judge attribution maps of image classifiers."""


def main() -> None:
    """Run the command line interface."""
    app(prog_name="attrlib")
