-- Changes a run that no process holds. 1 `reset` or `give_up`, 2 the claim of nobody, 3 the reason, 4 member of the index
if not exists then
    return { 'no_run', 0 }
end
if ARGV[1] == 'give_up' and is_there() and redis.call('HGET', KEYS[1], 'claim') == ARGV[2] then
    -- The answer was lost, and it is sent again.
    redis.call('HSET', KEYS[1], 'claim', ARGV[2])
    return { 'made', 0 }
end
if not is_leased() or has_expired() then
    return { 'no_run', 0 }
end
if number('lease_until') > now then
    return { 'held', number('lease_until') }
end
if ARGV[1] == 'reset' then
    redis.call('HSET', KEYS[1], 'attempt', '0', 'released', '0')
    return { 'made', 0 }
end
local head = head()
if not is_whole(head) then
    return { 'no_run', 0 }
end
finish(head, now + NEVER, ARGV[4])
redis.call('HSET', KEYS[1], 'state', '-1', 'claim', ARGV[2], 'reason', ARGV[3])
remove_at(KEYS[1], now + NEVER)
return { 'made', 0 }
