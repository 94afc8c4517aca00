#!/bin/sh
# sshd and pdsh for the tests of launches over ssh; nothing is started, other systems are left alone.
set -eu
PATH="$PATH:/usr/sbin"
command -v sshd >/dev/null && command -v pdsh >/dev/null && exit 0
command -v apt-get >/dev/null
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
{ timeout 120 apt-get update && timeout 300 apt-get install -y --no-install-recommends \
    openssh-server pdsh; } >/dev/null </dev/null
