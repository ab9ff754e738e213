#!/bin/sh
# Makes the database inside the image: the tables of pgbench, and the one in which a client numbers its commits.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data
as_postgres() { setpriv --reuid postgres --regid postgres --clear-groups env HOME=/tmp PATH="$bin:$PATH" LC_ALL=C "$@"; }

install -d -o postgres -g postgres /run/postgresql "$data"
as_postgres initdb -D "$data" --wal-segsize=1 --auth=trust --encoding=UTF8 >/dev/null
cat >>"$data/postgresql.conf" <<-'CONF'
	listen_addresses = '*'
	shared_buffers = 32MB
	max_connections = 80
	max_wal_size = 64MB
	min_wal_size = 8MB
	jit = off
CONF
echo 'host all all 0.0.0.0/0 trust' >>"$data/pg_hba.conf"
as_postgres pg_ctl -D "$data" -w -l /tmp/log start >/dev/null
as_postgres pgbench -q -i postgres 2>/dev/null
as_postgres psql -q -d postgres -c 'CREATE TABLE acknowledged (n bigint PRIMARY KEY)'
as_postgres pg_ctl -D "$data" -w -m fast stop >/dev/null
rm -f /tmp/log
