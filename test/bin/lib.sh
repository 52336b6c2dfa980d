# shellcheck shell=bash
# Shared by check and demo: packages, the unprivileged user, a work folder, the
# build, temporary clusters, and taking everything away again. Source it with
# bash; it changes to the top of the source tree.

set -u
umask 022
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 2

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 2; }

as_root()
{
	if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# The server refuses to run as root, so root hands over to postgres.
run_as_server()
{
	if [ -n "$SERVER_USER" ]; then runuser -u "$SERVER_USER" -- "$@"; else "$@"; fi
}

# Run something that may take long such that a signal to us is acted on at once
# (bash runs traps only between foreground commands).
step()
{
	"$@" &
	STEP_PID=$!
	wait "$STEP_PID"
	local status=$?
	STEP_PID=
	return $status
}

# Packages, PostgreSQL's paths, the user, the work folder and its removal.
set_up()
{
	test/bin/install-deps "$@" || exit 2

	SERVER_USER=
	if [ "$(id -u)" -eq 0 ]; then
		SERVER_USER=postgres
		id "$SERVER_USER" >/dev/null 2>&1 || SERVER_USER=nobody
	fi

	# Short, because a socket's path may have 107 characters only.
	WORK=$(mktemp -d "${TMPDIR:-/tmp}/sync_ext.XXXXXX") || die "cannot make a work folder"
	STEP_PID=
	INSTALLED=
	trap tear_down EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	mkdir "$WORK/tmp" "$WORK/cache" "$WORK/ports" "$WORK/secrets"
	chmod 700 "$WORK/cache" "$WORK/secrets"

	# Every process that we start inherits this mark; tear_down goes by it.
	export SYNC_EXT_RUN=$WORK
	export TMPDIR=$WORK/tmp
	export LC_ALL=C.UTF-8
	unset PGHOST PGPORT PGUSER PGDATABASE PGOPTIONS PGSERVICE PGPASSFILE PGDATA
	choose_server
	export SYNC_EXT_CACHE=${SYNC_EXT_CACHE:-$WORK/cache}
}

# The server to build for and to run: Debian's, the one of PG_CONFIG, or one with assertions.
choose_server()
{
	if [ -n "${ASSERT:-}" ]; then
		[ -z "${PG_CONFIG:-}" ] || die "give either PG_CONFIG or ASSERT"
		step test/bin/assert-server > "$WORK/tmp/pg_config" || die "no server with assertions"
		PG_CONFIG=$(cat "$WORK/tmp/pg_config")
	elif [ -z "${PG_CONFIG:-}" ]; then
		PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config
		[ -x "$PG_CONFIG" ] || PG_CONFIG=pg_config
	fi
	export PG_CONFIG
	PG_BIN=$("$PG_CONFIG" --bindir) || die "$PG_CONFIG does not work"
	PGXS_SRC=$(dirname "$(dirname "$("$PG_CONFIG" --pgxs)")")
	PG_PKGLIB=$("$PG_CONFIG" --pkglibdir)
	export PATH=$PG_BIN:$PATH
}

# What tests read must be readable for the server's user, which may not see the
# source tree at all; so it gets a copy that it owns, and we go there.
hand_over()
{
	cd "$WORK/tree" || exit 2
	[ -n "$SERVER_USER" ] || return 0
	chown -R "$SERVER_USER" "$WORK"
	[ "$SYNC_EXT_CACHE" = "$WORK/cache" ] || chown -R "$SERVER_USER" "$SYNC_EXT_CACHE"
}

copy_tree()
{
	mkdir "$WORK/tree"
	tar -cf - --exclude=.git --exclude='*.o' --exclude='*.d' --exclude=./tmp_check . \
		| tar -xf - -C "$WORK/tree" --no-same-owner
}

# Build in the source tree, install below the work folder. Debian's server looks
# for extensions below extension_destdir; without that setting the only way is a
# real install, taken back at the end.
build()
{
	(
		flock 9
		step make -s -j2 "$@" all && make -s "$@" install DESTDIR="$WORK/dest"
	) 9>.build.lock || die "the build failed"

	if "$PG_BIN/postgres" --describe-config | grep -q '^extension_destdir'; then
		export SYNC_EXT_DESTDIR=$WORK/dest
		export SYNC_EXT_LIBDIR=$WORK/dest$PG_PKGLIB
	else
		echo "this server has no extension_destdir: installing for real until the end"
		as_root make -s "$@" install PG_CONFIG="$PG_CONFIG" || die "make install failed"
		INSTALLED=yes
		export SYNC_EXT_DESTDIR='' SYNC_EXT_LIBDIR=''
	fi
}

# start_cluster NAME [LINE of postgresql.conf]...: sockets in $WORK/NAME.s
start_cluster()
{
	local name=$1 data=$WORK/$1 socket=$WORK/$1.s line
	shift
	run_as_server mkdir "$socket"
	run_as_server "$PG_BIN/initdb" -D "$data" -A trust -U postgres -N -E UTF8 --locale=C.UTF-8 \
		> "$WORK/tmp/initdb.log" || { cat "$WORK/tmp/initdb.log"; return 1; }
	{
		echo "listen_addresses = ''"
		echo "unix_socket_directories = '$socket'"
		echo "shared_preload_libraries = 'sync_ext'"
		echo "sync_ext.secrets_dir = '$WORK/secrets'"
		echo "max_prepared_transactions = 20"
		echo "max_worker_processes = 20"
		echo "wal_level = replica"
		echo "fsync = off"
		echo "log_line_prefix = '%m [%p] %q%a '"
		if [ -n "$SYNC_EXT_DESTDIR" ]; then
			echo "extension_destdir = '$SYNC_EXT_DESTDIR'"
			# extension_destdir alone does not serve shared_preload_libraries
			echo "dynamic_library_path = '$SYNC_EXT_LIBDIR:\$libdir'"
		fi
		for line in "$@"; do echo "$line"; done
	} | run_as_server tee -a "$data/postgresql.conf" > /dev/null
	if ! run_as_server "$PG_BIN/pg_ctl" -s -w -D "$data" -l "$WORK/$name.log" start; then
		tail -n 40 "$WORK/$name.log"
		return 1
	fi
	export PGHOST=$socket PGPORT=5432 PGUSER=postgres
}

stop_cluster()
{
	run_as_server "$PG_BIN/pg_ctl" -s -w -D "$WORK/$1" -m fast stop
}

# Processes that carry our mark. A server overwrites its environment, so data
# folders are asked too.
our_processes()
{
	local environ pid file
	for environ in /proc/[0-9]*/environ; do
		pid=${environ//[^0-9]/}
		[ "$pid" != $$ ] && [ "$pid" != "$BASHPID" ] || continue
		grep -qzxF "SYNC_EXT_RUN=$WORK" "$environ" 2>/dev/null && echo "$pid"
	done
	find "$WORK" -name postmaster.pid 2>/dev/null | while read -r file; do
		read -r pid < "$file" || continue
		# the number may have gone to a stranger since
		[ "$(readlink "/proc/$pid/cwd")" = "$(dirname "$file")" ] && echo "$pid"
	done
}

tear_down()
{
	local status=$? pid round
	trap '' INT TERM HUP
	trap - EXIT

	if [ -n "${KEEP:-}" ]; then
		echo "kept: $WORK"
		exit $status
	fi
	for round in TERM INT QUIT KILL; do
		local found=
		for pid in $(our_processes); do
			kill -0 "$pid" 2>/dev/null || continue
			found=yes
			kill -"$round" "$pid" 2>/dev/null
		done
		[ -n "$found" ] || break
		for _ in 1 2 3 4 5 6 7 8 9 10; do
			[ -n "$(our_processes)" ] || break
			sleep 0.2
		done
	done
	[ -z "$INSTALLED" ] || as_root make -s -C "$WORK/tree" uninstall PG_CONFIG="$PG_CONFIG"
	cd / && rm -rf "$WORK"
	exit $status
}
