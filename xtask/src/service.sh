# Runs a server, keeps it while standard input stays open, then ends it.
#
# `xtask` holds the other end of that pipe and the kernel closes it however `xtask` ends, SIGKILL included.
#
# Arguments: what the server's log says when it is ready, and the server's command line.
# Prints `ready`, or the end of the log.

# Whoever signals a whole group or closes the terminal means `xtask`; we learn of it by the pipe.
trap '' HUP INT TERM PIPE

ready=$1
shift
cannot_create=1
cannot_start=3

log=$(mktemp "${TMPDIR:-/tmp}/idem-service-XXXXXX") || exit $cannot_create

(
    trap - HUP INT TERM PIPE
    exec "$@" </dev/null >"$log" 2>&1
) &
server=$!

tries=600
outcome=0
until grep -q "$ready" "$log"; do
    if ! kill -0 $server 2>/dev/null || [ $((tries -= 1)) = 0 ]; then
        outcome=$cannot_start
        break
    fi
    sleep 0.1
done

if [ $outcome = 0 ]; then
    echo ready 2>/dev/null
    read -r end_of_pipe
else
    tail -n 20 "$log" 2>/dev/null
fi

kill -KILL $server 2>/dev/null
wait
rm -f "$log"
exit $outcome
