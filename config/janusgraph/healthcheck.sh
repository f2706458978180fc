#!/bin/bash
# Runs a query: the port opens also when the script engine behind it has failed.
set -euo pipefail

exec 3<>/dev/tcp/127.0.0.1/8182
printf 'GET /?gremlin=writer.check() HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
head -n 1 <&3 | grep -q ' 200 '
