#!/bin/bash
# Asks the CQL port for its options and expects an answer that supports them.
set -euo pipefail

readonly OPTIONS='\x04\x00\x00\x00\x05\x00\x00\x00\x00' SUPPORTED=06

exec 3<>"/dev/tcp/${1:-127.0.0.1}/9042"
printf "$OPTIONS" >&3
read -r _ _ _ _ opcode _ < <(head -c 9 <&3 | od -A n -t x1)
[[ $opcode == "$SUPPORTED" ]]
