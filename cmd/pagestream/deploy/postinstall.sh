#!/bin/sh
# Makes the service's user and lets it read the configuration. The service is neither enabled nor started,
# since it needs an app first.
set -e
if command -v systemd-sysusers >/dev/null; then
  systemd-sysusers pagestream.conf
fi
if getent group pagestream >/dev/null; then
  chgrp pagestream /etc/pagestream /etc/pagestream/pagestream.yaml
fi
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
