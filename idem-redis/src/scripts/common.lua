-- What every script begins with. KEYS are those of one record, in one slot: the record, the reply that is kept apart from
-- it, and the index of the runs in this shard that are not over.

local VERSION = '1'
-- A leased run that is not over. Every greater state is one, too.
local LEASED = 4
-- As good as never: a hundred years.
local NEVER = 3155760000000000

-- Microseconds since 1970 by this server's clock. They are below 2^53, so a number of Lua holds them exactly.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- Another program's value under one of our names: nothing is written.
for place, kind in ipairs({ 'hash', 'hash', 'zset' }) do
    local found = redis.call('TYPE', KEYS[place]).ok
    if found ~= 'none' and found ~= kind then
        return redis.error_reply('WRONGTYPE another value has the name of a record')
    end
end
local exists = redis.call('EXISTS', KEYS[1]) == 1

-- `..` rounds to 14 digits.
local function text(number)
    return string.format('%.0f', number)
end

local function number(field)
    return tonumber(redis.call('HGET', KEYS[1], field) or nil)
end

local function is_there()
    return redis.call('HGET', KEYS[1], 'version') == VERSION
end

local function is_leased()
    return is_there() and (number('state') or 0) >= LEASED
end

-- Whether this claim holds the run.
local function is_held(claim)
    return is_leased() and redis.call('HGET', KEYS[1], 'claim') == claim
end

local function has_expired()
    return number('expires_at') <= now and (number('kept_until') or 0) <= now
end

-- Redis removes the key within the millisecond after this time, or later: never before it.
local function remove_at(key, at)
    redis.call('PEXPIREAT', key, text(math.ceil(at / 1000)))
end

-- The same, if the key is not to be removed later already.
local function remove_not_before(key, at)
    if redis.call('PTTL', key) < math.ceil(at / 1000) - math.floor(now / 1000) then
        remove_at(key, at)
    end
end

-- Lets the record live until this time, or longer. The index lives as long as any run in it.
local function live_until(at)
    at = math.max(at, number('expires_at') or 0)
    redis.call('HSET', KEYS[1], 'expires_at', text(at))
    remove_at(KEYS[1], at)
    remove_not_before(KEYS[3], at)
end

local function renew(duration, lives)
    redis.call('HSET', KEYS[1], 'lease_until', text(now + duration))
    live_until(now + lives)
end

-- The fields that every state has.
local function head()
    return redis.call('HMGET', KEYS[1], 'scope', 'operation', 'key_hash', 'fingerprint', 'fence', 'created_at')
end

-- Puts a finished record in the place of a run. The first statement is one that a full memory refuses, so that nothing is
-- removed then.
local function finish(head, expires_at, member)
    redis.call('HSET', KEYS[1], 'state', '0')
    redis.call('DEL', KEYS[1], KEYS[2])
    redis.call(
        'HSET', KEYS[1], 'version', VERSION, 'scope', head[1], 'operation', head[2], 'key_hash', head[3],
        'fingerprint', head[4], 'fence', head[5], 'created_at', head[6], 'completed_at', text(now),
        'expires_at', text(expires_at)
    )
    redis.call('ZREM', KEYS[3], member)
end

local function is_whole(head)
    for place = 1, 6 do
        if not head[place] then
            return false
        end
    end
    return true
end
