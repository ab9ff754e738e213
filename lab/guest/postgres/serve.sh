#!/bin/sh
# PID 1 of the database's machine: the lab's guest has set up the network, and mounted /proc, /sys and /dev.
mount -t tmpfs tmpfs /run
mkdir -p /run/postgresql /dev/shm
mount -t tmpfs tmpfs /dev/shm
chown postgres:postgres /run/postgresql
setpriv --reuid postgres --regid postgres --clear-groups /usr/lib/postgresql/*/bin/postgres -D /var/lib/postgresql/data &
while :; do
	wait
	sleep 1
done
