"""`make lab` as root, without a display, with the reader's own flags."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from labkit.disk import JUPYTER
from labkit.launch import FIRST, SETTINGS, has_display, jupyter_arguments, main


def arguments(*args, environ=(), is_root=False, display=True):
    return jupyter_arguments(list(args), dict(environ), is_root, display)


@pytest.mark.parametrize(
    ("args", "more", "browser", "words"),
    [
        ((), {}, True, "opens in your browser"),
        ((), {"display": False}, False, "no display"),
        ((), {"display": False, "environ": {"BROWSER": "/usr/bin/helper"}}, True, "opens in your browser"),
        (("--no-browser", "--port", "8890"), {"display": False}, False, "as requested"),
    ],
)
def test_a_browser_opens_the_first_notebook_if_there_can_be_one(args, more, browser, words):
    argv, sentence = arguments(*args, **more)
    assert f"--LabApp.default_url=/lab/tree/{FIRST}" in argv
    assert argv.count("--no-browser") == (0 if browser else 1)
    assert words in sentence and "by hand" in sentence
    assert argv[len(argv) - len(args) :] == list(args), "the reader's own come last, and win"


def test_only_root_gets_allow_root_and_address_and_token_stay_jupyters_own():
    assert "--allow-root" in arguments(is_root=True)[0] and "--allow-root" not in arguments()[0]
    argv, _ = arguments(is_root=True, display=False)
    assert not [a for a in argv if "token" in a or "ip=" in a or "password" in a]


def test_jupyter_starts_where_the_home_cannot_be_written_to(monkeypatch, capsys):
    started = []
    stand_in = SimpleNamespace(LabApp=SimpleNamespace(launch_instance=started.append))
    monkeypatch.setitem(sys.modules, "jupyterlab.labapp", stand_in)
    monkeypatch.setattr(sys, "argv", ["launch"])
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(os, "environ", {"HOME": "/nowhere"})
    main()
    assert started and "settings in /" in capsys.readouterr().out
    folders = [Path(os.environ[name]) for name in JUPYTER]
    assert len({folder.parent for folder in folders}) == 1 and folders[0].parent.is_dir()
    folders[0].parent.rmdir()


def test_no_news_question_greets_the_reader():
    assert f"--LabApp.app_settings_dir={SETTINGS}" in arguments()[0]
    overrides = json.loads((SETTINGS / "overrides.json").read_text(encoding="utf-8"))
    assert overrides["@jupyterlab/apputils-extension:notification"]["fetchNews"] == "false"


@pytest.mark.parametrize(
    ("environ", "platform", "expected"),
    [
        ({}, "linux", False),
        ({"DISPLAY": ""}, "linux", False),
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({}, "darwin", True),
        ({}, "win32", True),
    ],
)
def test_display(environ, platform, expected):
    assert has_display(environ, platform) is expected
