# Runs a server in a folder of its own, keeps it while standard input stays open, then ends it and removes the folder.
#
# `xtask` holds the other end of that pipe, and the kernel closes it however `xtask` ends, SIGKILL included. The shell
# that makes the folder and the server is also the one that removes them, so that no moment lies between in which one
# exists and nobody would remove it.
#
# Arguments: what the server's log says when it is ready, and three lines of shell, all run in the folder: what comes
# before the server, the server, and what ends it. Prints `ready`, or the end of the log.

# Whoever signals a whole group or closes the terminal means `xtask`; we learn of it by the pipe.
# Nobody may be left to read what we print, and that must not end us either.
trap '' HUP INT TERM PIPE

ready=$1
before=$2
run=$3
stop=$4

# A private TMPDIR is closed to the account that a server started by root runs under.
folder=$(mktemp -d "${TMPDIR:-/tmp}/idem-server-XXXXXX" 2>/dev/null) ||
    folder=$(mktemp -d /tmp/idem-server-XXXXXX) || exit
cd "$folder" || exit

start() {
    (eval "$before") </dev/null >log 2>&1 || return
    (
        trap - HUP INT TERM PIPE
        eval "exec $run"
    ) </dev/null >>log 2>&1 &
    server=$!
    tries=600
    # A connection could be somebody else's server answering on our port.
    until grep -q "$ready" log; do
        kill -0 $server 2>/dev/null && [ $((tries -= 1)) -gt 0 ] || return
        sleep 0.1
    done
}

server=
if start; then
    echo ready 2>/dev/null
    read -r end_of_pipe
else
    tail -n 20 log 2>/dev/null
fi
[ -z "$server" ] || (eval "$stop") >>log 2>&1
wait
cd / && rm -rf "$folder"
