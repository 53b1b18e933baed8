-- Claims a request, or answers with its record.
-- 1 claim, 2 whether a run may begin, 3 and 4 the first and the last time at which it may, 5 the claim of the record that
-- may be replaced or taken over, 6 which of the two, 7 duration of the lease, 8 how long the record lives, 9 fingerprint,
-- 10 scope, 11 operation, 12 key hash, 13 member of the index, 14 the input, if there is one

local function claimed(entries)
    return { 'claimed', now, number('fence'), number('attempt'), redis.call('HGET', KEYS[1], 'fingerprint'), entries }
end

-- A late holder of an earlier attempt may live, even if its record does not. So the number is the time, which needs no
-- memory, and at least one more than the number that is remembered: two claims may come in one microsecond.
local function fence()
    return text(math.max(now, (number('fence') or 0) + 1))
end

local function begin()
    local fence = fence()
    redis.call('HSET', KEYS[1], 'claim', ARGV[1])
    redis.call('DEL', KEYS[1], KEYS[2])
    redis.call(
        'HSET', KEYS[1], 'version', VERSION, 'state', tostring(LEASED), 'claim', ARGV[1], 'fence', fence,
        'fingerprint', ARGV[9], 'scope', ARGV[10], 'operation', ARGV[11], 'key_hash', ARGV[12], 'attempt', '1',
        'released', '0', 'lease_until', text(now + ARGV[7]), 'created_at', text(now)
    )
    if ARGV[14] then
        redis.call('HSET', KEYS[1], 'input', ARGV[14])
    end
    redis.call('ZADD', KEYS[3], '0', ARGV[13])
    live_until(now + ARGV[8])
    return claimed({})
end

if not exists then
    if ARGV[2] == '1' and now >= tonumber(ARGV[3]) and now <= tonumber(ARGV[4]) then
        return begin()
    end
    return { 'none', now }
end

if is_held(ARGV[1]) then
    -- The answer to this claim was lost, and it is sent again. The write lets `WAIT` wait for it.
    redis.call('HSET', KEYS[1], 'claim', ARGV[1])
    return claimed(redis.call('HGETALL', KEYS[1]))
end

if ARGV[5] ~= '' and is_there() and redis.call('HGET', KEYS[1], 'claim') == ARGV[5] then
    if ARGV[6] == 'expired' and has_expired() then
        return begin()
    end
    if ARGV[6] == 'attempt' and is_leased() and number('lease_until') <= now and not has_expired() then
        local fence = fence()
        redis.call('HSET', KEYS[1], 'claim', ARGV[1], 'fence', fence, 'lease_until', text(now + ARGV[7]))
        redis.call('HINCRBY', KEYS[1], 'attempt', 1)
        redis.call('ZADD', KEYS[3], '0', ARGV[13])
        live_until(now + ARGV[8])
        return claimed(redis.call('HGETALL', KEYS[1]))
    end
end

return { 'seen', now, seen('1') }
