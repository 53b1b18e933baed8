# Starts a PostgreSQL in a folder of its own, keeps it while standard input stays open, then removes both.
#
# `xtask` holds the other end of that pipe and the kernel closes it however `xtask` ends, SIGKILL included.
# So the shell that makes the folder and the server is also the one that removes them,
# and no moment lies between in which one exists and nobody would remove it.
#
# Arguments: the folder of the server's programs, and lines for postgresql.conf.
# Prints `ready`, or the end of the log.

# Whoever signals a whole group or closes the terminal means `xtask`; we learn of it by the pipe.
# Nobody may be left to read what we print, and that must not end us either.
trap '' HUP INT TERM PIPE

programs=$1
settings=$2
cannot_create=1
cannot_start=3

# A private TMPDIR is closed to the account that a server started by root runs under.
folder=$(mktemp -d "${TMPDIR:-/tmp}/idem-postgres-XXXXXX" 2>/dev/null) ||
    folder=$(mktemp -d /tmp/idem-postgres-XXXXXX) ||
    exit $cannot_create
data=$folder/data
log=$folder/log

create() {
    "$programs/initdb" --pgdata="$data" --username=postgres --auth=trust \
        --encoding=UTF8 --locale=C --no-sync >"$log" 2>&1 &&
        printf '%s\n' "$settings" >>"$data/postgresql.conf"
}

# Not by `pg_ctl start`, which gives the server away to init; and not every container's init buries its dead.
start() {
    {
        "$programs/postgres" -D "$data" </dev/null >>"$log" 2>&1
        : >"$folder/ended"
    } &
    tries=600
    # Where `pg_ctl` looks, too. A connection could be somebody else's server answering on our port.
    until grep -q '^ready' "$data/postmaster.pid" 2>/dev/null; do
        [ ! -e "$folder/ended" ] && [ $((tries -= 1)) -gt 0 ] || return
        sleep 0.1
    done
}

# A crash, on purpose: nothing of it is read again.
stop() {
    "$programs/pg_ctl" stop --pgdata="$data" --mode=immediate --wait >>"$log" 2>&1
    wait
}

if ! create; then
    outcome=$cannot_create
elif ! start; then
    outcome=$cannot_start
else
    outcome=0
    echo ready 2>/dev/null
    read -r end_of_pipe
fi

[ $outcome = 0 ] || tail -n 20 "$log" 2>/dev/null
[ $outcome = $cannot_create ] || stop
rm -rf "$folder"
exit $outcome
