#!/bin/sh
# Stops the service before the package is removed: "remove" is dpkg's word, 0 is rpm's. An upgrade leaves
# it running; restart it afterwards. The data stay.
set -e
if [ "$1" = remove ] || [ "$1" = 0 ]; then
  if [ -d /run/systemd/system ]; then
    systemctl --quiet disable --now pagestream.service || true
  fi
fi
