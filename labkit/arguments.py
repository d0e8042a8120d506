"""Arguments of the command line that name experiments: a recipe and its settings, axes of a grid, a file of runs."""

import ast
import contextlib
import difflib
import io
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce, wraps
from operator import or_
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, cast

import tyro
from tyro.conf import Suppress, arg, subcommand

import labkit  # its modules are imported when they are used, so that help needs no torch
from labkit.checks import ConfigError, refuse, require
from labkit.disk import read_text, user_path

RECIPES = ("digits", "letters", "emoji", "cifar10", "imagenet256")
STRAY = re.compile(r"Unrecognized options: (true|false|yes|no|on|off)\b", re.IGNORECASE)
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST = 10_000


@contextlib.contextmanager
def refusals(words: Sequence[str] = ()) -> Iterator[None]:
    """Raise the ``ConfigError`` of a setting that refuses its value, where tyro would print a box and end the program.

    The error names the setting as it is typed; the box would name the parameters of our functions.

    Args:
        words: those that are read, in which a switch may have a value that tyro takes for a word too many.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            yield
    except SystemExit as end:
        error: BaseException | None = end
        while error is not None and not isinstance(error, ConfigError):
            error = error.__context__
        if error is not None:
            raise error from None
        stray = STRAY.search(box.getvalue())
        if stray and (switch := re.search(rf"--(([\w-]+\.)*)([\w-]+)[ =]{stray[1]}\b", " ".join(words))):
            section, name = switch[1], switch[3]
            refuse(section + name, stray[1], f"write --{section}{name} for yes, --{section}no-{name} for no")
        sys.stderr.write(box.getvalue())
        raise


def later(command: Callable[..., Any]) -> Callable[..., Callable[[], Any]]:
    """The command for tyro to fill with settings: it returns a function without arguments, which runs the command."""
    return wraps(command)(lambda *values, **settings: partial(command, *values, **settings))


def with_recipes(
    command: Callable[..., Any],
    words: Sequence[str],
    others: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
    **defaults: Any,
) -> Callable[..., Any]:
    """A command whose next word names a recipe, with a flag for each setting of it.

    Args:
        command: takes a ``config`` and flags.  words: those after the command, which may name a preset.
        others: flag → what the command does with that flag in place of a recipe.
        defaults: settings of every recipe that the command changes.
    """

    def recipe(name: str) -> Any:
        make = partial(getattr(labkit.recipes, name), **defaults)
        if name == "imagenet256":
            run = _with_preset(later(command), make, words if words[:1] == [name] else [])
        else:
            run = partial(later(command), config=make())
        return Annotated[Any, subcommand(name, constructor=run, description=make.func.__doc__.partition("\n")[0])]

    def subcommands() -> Any:
        typed = [name for name in words[:1] if name in RECIPES]  # alone, so that tyro suggests no other recipe's flags
        arms = [recipe(name) for name in typed or RECIPES]
        for flag, run in others.items():
            if not typed:
                arms.append(Annotated[Any, subcommand(flag, constructor=later(run), is_default=True)])
            elif any(word.partition("=")[0] == f"--{flag}" for word in words):
                raise ConfigError(f"give a recipe or --{flag}, not both; leave {typed[0]!r} out")
        return reduce(or_, [*arms, Annotated[None, Suppress]])  # a union needs two

    return _running(command, subcommands)


def _with_preset(command: Callable[..., Any], recipe: Callable[..., Any], words: Sequence[str]) -> Callable[..., Any]:
    """A subcommand whose flags ``--preset`` and ``--model`` choose the settings from which the other flags start."""

    def read(preset: str = "paper", model: str | None = None) -> tuple[str, str | None]:
        return preset, model

    typed, model = tyro.cli(read, args=words, return_unknown_args=True, add_help=False)[0]
    start = partial(command, config=recipe(preset=typed, model=model))
    chosen = cast("labkit.recipes.Preset", typed)  # the recipe refuses any other

    def with_preset(
        work: Annotated[Any, arg(name="", constructor=start)], preset: labkit.recipes.Preset = chosen
    ) -> Any:
        """Run.

        Args:
            preset: Settings of a published run, from which the other flags start.
        """
        return work

    return with_preset


def with_config_of_run(command: Callable[..., Any], words: Sequence[str]) -> Callable[..., Any]:
    """A command that takes the folder of a run, with a flag for each setting, which starts from that run's."""

    def start() -> Callable[..., Any]:
        run = next((word for word in words if (Path(word) / "config.json").exists()), None)
        return later(command) if run is None else partial(later(command), config=labkit.Run.open(run).config)

    return _running(command, start)


def _running(command: Callable[..., Any], work_of: Callable[[], Any]) -> Callable[..., Any]:
    """A function with the command's help that runs what ``work_of`` makes of the words."""

    def run(work: Annotated[Any, arg(name="", constructor_factory=work_of)]) -> Any:
        return work()

    run.__doc__ = command.__doc__
    return run


def check_word(words: Sequence[str], kind: str, choices: Sequence[str], remedy: str) -> None:
    """Refuse a first word that is neither a flag nor one of the choices, and suggest the choice nearest to it."""
    word = words[0] if words else ""
    if word in choices or word.startswith("-"):
        return
    near = difflib.get_close_matches(word, choices, 1)
    wrong = f"{word!r} is not a {kind}" if word else f"no {kind} is named"
    raise ConfigError(f"{wrong}; {f'did you mean {near[0]!r}? Write' if near else 'write'} {remedy}")


def axes_of(words: Sequence[str]) -> dict[str, list[Any]]:
    """Field → values of words such as ``dispersive.lam=None,0.1``, ``seed=0..4`` or ``dispersive.blocks=all,(0,1)``.

    Raises:
        ConfigError: no field, no values, or a field twice.
    """
    axes: dict[str, list[Any]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        name = name.strip().replace("-", "_")
        form = "write FIELD=VALUE,VALUE,… as in dispersive.lam=None,0.1,0.5 or seed=0..4"
        require(bool(name and equals and values.strip()), "grid", word, form)
        require(name not in axes, "grid", word, f"{name} has its values already; name them all at once")
        parts = re.split(r",(?![^(]*\))", values)
        axes[name] = [value for part in parts for value in _values(part.strip(), word)]
    return axes


def _values(text: str, word: str) -> list[Any]:
    """One value, or the whole numbers of a range, both ends included."""
    require(text != "", "grid", word, "there is a value missing beside a comma")
    if ends := RANGE.fullmatch(text):
        first, last = map(int, ends.groups())
        require(first <= last, "grid", word, f"{text} must go from the smaller number to the larger")
        require(last < first + MOST, "grid", word, f"{text} has more than {MOST:,} values")
        return list(range(first, last + 1))
    try:
        return [ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        return [text]


def read_list(file: Path) -> "dict[str, labkit.Config]":
    """Run → config of a file with a line for each run: ``digits --dispersive.lam 0.5``, or ``name: digits …``.

    A line has the words that would follow ``labkit train``. Empty lines and comments after # are skipped.

    Raises:
        ConfigError: no such file, no runs, a name twice, or a line that cannot be read, which is named.
    """
    from labkit.experiments.sweep import LONGEST, folder_name

    file = user_path(file, "list")
    require(file.is_file(), "list", str(file), "there is no such file")
    runs: dict[str, labkit.Config] = {}
    for number, line in enumerate(read_text(file).splitlines(), 1):
        place = f"line {number} of {file}"
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise ConfigError(f"{place} cannot be read: {error}") from error
        if not words:
            continue
        name = words.pop(0)[:-1] if words[0].endswith(":") else folder_name(" ".join(words).replace(" --", ","))
        require(name not in runs, place, name, "there is a run of this name already; begin the line with NAME:")
        require(len(name.encode()) <= LONGEST, place, name, "that is too long for a folder; begin the line with NAME:")
        try:
            check_word(words, "recipe", RECIPES, f"one of {', '.join(RECIPES)}")
            with refusals(words):
                config, out = tyro.cli(with_recipes(_experiment, words), args=words, prog="labkit train")
        except (ConfigError, SystemExit) as error:
            why = f": {error}" if isinstance(error, ConfigError) else ", as said above"
            raise ConfigError(f"{place} cannot be used{why}") from error
        require(out == Path(), place, str(out), "leave --out away: the sweep says where")
        runs[name] = config
    require(len(runs) > 0, "list", str(file), "it names no runs; write a line for each, such as digits --seed 1")
    return runs


def _experiment(config: "Annotated[labkit.Config, arg(name='')]", out: Path = Path()) -> "tuple[labkit.Config, Path]":
    return config, out


def command(*words: object) -> str:
    """A command as it can be pasted into a shell."""
    return shlex.join(["labkit", *map(str, words)])
