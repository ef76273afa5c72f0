#!/bin/sh
# Writes the shells' completions into a directory, as the command line prints them.
set -e
dir=$1
mkdir -p "$dir"
for shell in bash zsh fish; do
  file=$dir/pagestream.$shell
  if ! go run ./cmd/pagestream completion "$shell" >"$file" 2>/dev/null; then
    # A version without the command has no completions, and the packages need the file.
    echo "# pagestream has no completions for $shell" >"$file"
  fi
done
