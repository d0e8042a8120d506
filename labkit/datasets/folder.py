"""The images below a folder, by one rule for stores and references, and in words what else is there.

Every file with the suffix of an image counts, at any depth and behind links; a folder that is reached in several ways
counts once. Left out are hidden entries, folders that systems create, files of other kinds, pipes, and links that lead
nowhere or back.
"""

import heapq
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from labkit.checks import refuse

SUFFIXES = {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SYSTEM = {
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # network storage: thumbnails, bins
    *("$recycle.bin", "system volume information", "__macosx", "lost+found", "__pycache__"),
}
"""Folders that no person made, in lower case."""
SPLIT = re.compile(r"(train|val|test|dev|eval)(ing|id|idation|uation)?[\W_]*(set|data|images|imgs)?[\W_]*\d*")
SHOWN = 6  # kinds of entries that the note on them names
IMAGE, FOLDER = "image", "folder"


class ImageFiles(NamedTuple):
    """The images below a folder."""

    root: Path
    folders: list[str]
    """Paths of the folders that were entered, below ``root`` and with "/"."""
    names: list[str]
    """Paths of the images, likewise, in no order."""
    notes: list[str]
    """What was not taken and why, and what may not be meant, each in a few words."""


def find_images(folder: Path, field: str) -> ImageFiles:
    """All images below a folder.

    Args:
        field: the setting that names the folder, for a message.

    Raises:
        ConfigError: a folder cannot be read.
    """
    root = folder.resolve()
    names: list[str] = []
    folders: list[str] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    entered = {str(parent) for parent in root.parents}  # a link to one of these leads back
    plain: list[tuple[str, str]] = [("", str(root))]
    links: list[tuple[str, str]] = []
    while plain or links:
        name, place = plain.pop() if plain else heapq.heappop(links)  # a link may lead to a folder that counts anyway
        if place in entered:
            left_out["links to folders that are listed anyway"].append(name)
            continue
        entered.add(place)
        folders.append(name)
        try:
            with os.scandir(root / name) as entries:
                for entry in entries:
                    path, kind = f"{name}/{entry.name}".lstrip("/"), _kind(entry)
                    if kind == IMAGE:
                        names.append(path)
                    elif kind != FOLDER:
                        left_out[kind].append(path)
                    elif entry.is_symlink():
                        heapq.heappush(links, (path, os.path.realpath(entry.path)))
                    else:
                        plain.append((path, os.path.join(place, entry.name)))
        except OSError as error:
            remedy = f"{root / name} cannot be read ({error.strerror}); allow that, or name a folder beside it"
            refuse(field, str(folder), remedy)
    parts = splits(name.split("/")[-1] for name in folders if name.count("/") < 2)
    together = f"taken together: folders that look like splits ({', '.join(parts.values())})"
    return ImageFiles(root, folders, names, [*_left_out(left_out), *([together] if len(parts) > 1 else [])])


def _kind(entry: os.DirEntry[str]) -> str:
    """``IMAGE``, ``FOLDER``, or in words why an entry does not count."""
    name = entry.name.lower()
    if name[0] == ".":
        return "hidden files and folders"
    try:
        folder, file = entry.is_dir(), entry.is_file()
    except OSError:  # links in a circle, or to a place that may not be entered
        folder = file = False
    if folder:
        return "system folders" if name in SYSTEM else FOLDER
    suffix = os.path.splitext(name)[1]
    nowhere = entry.is_symlink() and not os.path.exists(entry.path)
    if suffix in SUFFIXES and (file or nowhere):  # a missing image is reported by name when it should be read
        return IMAGE
    if file:
        return f"{suffix} files" if suffix else "files without a suffix"
    return "links that lead nowhere" if nowhere else "pipes, sockets and devices"


def _left_out(entries: Mapping[str, list[str]]) -> list[str]:
    """A note on the entries that do not count, kind by kind; none where all count."""
    kinds = sorted(entries.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [f"{kind} ({len(paths)}: {min(paths)}{', …' if paths[1:] else ''})" for kind, paths in kinds[:SHOWN]]
    others = sum(len(paths) for _, paths in kinds[SHOWN:])
    text = ", ".join([*parts, *([f"others ({others})"] if others else [])])
    return [f"not taken: {text.encode(errors='backslashreplace').decode()}"] if text else []


def splits(folders: Iterable[str]) -> dict[str, str]:
    """Part of a data set (train, val, …) → the first folder that is named after it."""
    named: dict[str, str] = {}
    for name in sorted(folders):
        if match := SPLIT.fullmatch(name.lower()):
            named.setdefault(match[1], name)
    return named
