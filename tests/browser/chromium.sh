#!/bin/sh
# Makes sure that the browser tests find a Chromium; where it may not install one, says so and lets them skip.
[ -n "$LABKIT_CHROMIUM" ] && exit 0
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$name" >/dev/null && exit 0
done

as_root=
[ "$(id -u)" = 0 ] || as_root="sudo -n"
if ! command -v apt-get >/dev/null; then
    echo "No Chromium found, and no apt-get to install it with: the browser tests will be skipped."
elif ! $as_root true 2>/dev/null; then
    echo "No Chromium found, and no right to install it (sudo apt-get install chromium): the browser tests will be skipped."
elif ! { $as_root apt-get update -qq && $as_root apt-get install -qq -y --no-install-recommends chromium >/dev/null; }; then
    echo "Chromium could not be installed (apt-get said why, above): the browser tests will be skipped."
fi
