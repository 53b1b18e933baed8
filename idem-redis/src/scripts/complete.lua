-- Completes the record.
-- 1 claim, 2 a number of this completion, 3 state, 4 format or nothing, 5 status or nothing, 6 headers, 7 body, 8 `ttl`,
-- 9 how long it refuses retries from now on, or nothing, 10 member of the index
if not is_held(ARGV[1]) then
    if is_there() and redis.call('HGET', KEYS[1], 'completion') == ARGV[2] then
        -- The answer was lost, and it is sent again. The write lets `WAIT` wait for it.
        redis.call('HSET', KEYS[1], 'completion', ARGV[2])
        return 'kept'
    end
    return 'lost'
end
local head = head()
if not is_whole(head) then
    return 'lost'
end
local expires_at = now + ARGV[8]
finish(head, expires_at, ARGV[10])
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'claim', ARGV[1], 'completion', ARGV[2])
local reply = KEYS[1]
if ARGV[9] == '' then
    remove_at(KEYS[1], expires_at)
else
    local kept_until = now + ARGV[9]
    redis.call('HSET', KEYS[1], 'kept_until', text(kept_until))
    remove_at(KEYS[1], kept_until)
    reply = KEYS[2]
end
if ARGV[4] ~= '' then
    -- A reply is not needed after its `ttl`: apart from the record, it is removed then.
    redis.call('HSET', reply, 'format', ARGV[4], 'status', ARGV[5], 'headers', ARGV[6], 'body', ARGV[7])
    if reply == KEYS[2] then
        remove_at(KEYS[2], expires_at)
    end
end
return 'kept'
