"""How the command line reads experiments: a recipe and its settings, axes of a grid, a file of runs."""

import ast
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from labkit import recipes
from labkit.checks import ConfigError, require
from labkit.config import Config
from labkit.experiments.sweep import named

RECIPES = {name: getattr(recipes, name) for name in ("digits", "emoji", "cifar10", "imagenet256")}
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST = 10_000


def ask(argv: Sequence[str], command: str, folder: str, more: Any = None, **defaults: Any) -> tuple[Config, Path, Any]:
    """Read the recipe that the first word names, and what the other words change.

    Args:
        argv: the words after ``labkit <command>``.  folder: where it trains if nothing is said.
        more: other settings of the command, a dataclass, which come back changed.  defaults: of the recipe.
    """
    if not argv or argv[0] not in RECIPES:
        found = f"{argv[0]!r} is not a recipe" if argv else "no recipe is named"
        other = {"train": "--resume FOLDER", "sweep": "--list FILE"}
        instead = f" (or: labkit {command} {other[command]})" if command in other else ""
        raise ConfigError(f"{found}; write labkit {command} with one of {', '.join(RECIPES)}{instead}")

    rest = list(argv[1:])
    if argv[0] == "imagenet256":
        defaults, rest = _presets(rest, defaults)
    recipe = RECIPES[argv[0]](**defaults)

    def settings(
        config: Annotated[Config, tyro.conf.arg(name="")] = recipe,
        out: Path = Path(folder),
        more: Annotated[type(more), tyro.conf.OmitArgPrefixes, tyro.conf.arg(name=command)] = more,
    ) -> tuple[Config, Path, Any]:
        """Train; Ctrl-C saves. Every setting of the recipe can be changed.

        Args:
            out: Folder to train in; if it holds this very experiment, training continues there.
        """
        return config, out, more

    return tyro.cli(settings, args=rest, prog=f"labkit {command} {argv[0]}")


def _presets(words: list[str], defaults: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Take ``--preset NAME`` out of the words: it must be known before there are settings to change."""
    for at, word in enumerate(words):
        if word == "--preset" or word.startswith("--preset="):
            given = word.partition("=")[2] or (words[at + 1] if at + 1 < len(words) else "")
            left = words[:at] + words[at + (1 if "=" in word else 2) :]
            return {**defaults, "preset": given}, left
    return defaults, words


def axes_of(words: Sequence[str]) -> dict[str, list[Any]]:
    """``dispersive.lam=None,0.1`` and ``seed=0..4`` → field → values; ``dispersive.blocks=all,(0,1)`` has two.

    Raises:
        ConfigError: no field, no values, or a field twice.
    """
    axes: dict[str, list[Any]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        name = name.strip().replace("-", "_")
        told = "write FIELD=VALUE,VALUE,… as in dispersive.lam=None,0.1,0.5 or seed=0..4"
        require(bool(name and equals and values.strip()), "grid", word, told)
        require(name not in axes, "grid", word, f"{name} has its values already; name them all at once")
        parts = re.split(r",(?![^(]*\))", values)
        axes[name] = [value for part in parts for value in _values(part.strip(), word)]
    return axes


def _values(text: str, word: str) -> list[Any]:
    """One value, or the whole numbers of a range, both ends included."""
    require(text != "", "grid", word, "there is a value missing beside a comma")
    if found := RANGE.fullmatch(text):
        first, last = map(int, found.groups())
        require(first <= last, "grid", word, f"{text} must go from the smaller number to the larger")
        require(last < first + MOST, "grid", word, f"{text} has more than {MOST:,} values")
        return list(range(first, last + 1))
    try:
        return [ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        return [text]


def listed(file: Path) -> dict[str, Config]:
    """Run → config of a file that has a line for each: ``digits --dispersive.lam 0.5``, or ``name: digits …``.

    A line says what ``labkit train`` would be told. Empty lines and what follows a # are left out.

    Raises:
        ConfigError: no such file, no runs, a name twice, or a line that cannot be read, which is named.
    """
    require(file.is_file(), "list", str(file), "there is no such file")
    runs: dict[str, Config] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        place = f"line {number} of {file}"
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise ConfigError(f"{place} cannot be read: {error}") from error
        if not words:
            continue
        name = words.pop(0)[:-1] if words[0].endswith(":") else named(" ".join(words).replace(" --", ","))
        require(name not in runs, place, name, "there is a run of this name already; begin the line with NAME:")
        require(len(name.encode()) <= 200, place, name, "that is too long for a folder; begin the line with NAME:")
        try:
            config, out, _ = ask(words, "train", "")
        except (ConfigError, SystemExit) as error:
            why = f": {error}" if isinstance(error, ConfigError) else ", as said above"
            raise ConfigError(f"{place} cannot be used{why}") from error
        require(out == Path(), place, str(out), "leave --out away: the sweep says where")
        runs[name] = config
    require(len(runs) > 0, "list", str(file), "it names no runs; write a line for each, such as digits --seed 1")
    return runs


def command(*words: object) -> str:
    """A command as it can be pasted into a shell."""
    return shlex.join(["labkit", *map(str, words)])
