#!/bin/sh
# Runs the README's shell blocks marked "```sh test" as they are written, from the top of the checkout.
set -eu
cd "$(dirname "$0")/.."
awk '/^```sh test$/ { on = 1; next } /^```/ { on = 0 } on' README.md >target/readme-commands.sh
[ -s target/readme-commands.sh ] || { echo "the README has no tested commands" >&2; exit 1; }
cat target/readme-commands.sh
sh -eu target/readme-commands.sh
