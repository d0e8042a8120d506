"""`make lab` as root, without a display, with the reader's own flags."""

import json

import pytest

from labkit.launch import FIRST, SETTINGS, has_display, jupyter_arguments


def arguments(*args, environ=(), is_root=False, display=True):
    return jupyter_arguments(list(args), dict(environ), is_root, display)


def test_a_desktop_opens_the_first_notebook_in_a_browser():
    argv, sentence = arguments()
    assert f"--LabApp.default_url=/lab/tree/{FIRST}" in argv
    assert "--no-browser" not in argv
    assert "--allow-root" not in argv
    assert "opens in your browser" in sentence


def test_without_a_display_no_browser_is_tried_and_it_is_said():
    argv, sentence = arguments(display=False)
    assert argv.count("--no-browser") == 1
    assert "no display" in sentence
    assert "by hand" in sentence


def test_a_browser_named_by_the_reader_is_used_even_without_a_display():
    argv, _ = arguments(environ={"BROWSER": "/usr/bin/helper"}, display=False)
    assert "--no-browser" not in argv


def test_the_readers_flags_come_last_and_are_not_doubled():
    argv, sentence = arguments("--no-browser", "--port", "8890", display=False)
    assert argv[-3:] == ["--no-browser", "--port", "8890"]
    assert argv.count("--no-browser") == 1
    assert "as requested" in sentence


def test_only_root_gets_allow_root():
    assert "--allow-root" in arguments(is_root=True)[0]


def test_loopback_and_token_stay_jupyters_own():
    argv, _ = arguments(is_root=True, display=False)
    assert not [a for a in argv if "token" in a or "ip=" in a or "password" in a]


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
