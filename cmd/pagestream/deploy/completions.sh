#!/bin/sh
# Writes the shells' completions into a directory, as the command line prints them.
set -e
dir=$1
mkdir -p "$dir"
for shell in bash zsh fish; do
  go run ./cmd/pagestream completion "$shell" >"$dir/pagestream.$shell"
done
