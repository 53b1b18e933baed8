-- Forgets a finished record, or says what would become of it. 1 scope, 2 whether it is only asked
if not exists or not is_there() or redis.call('HGET', KEYS[1], 'scope') ~= ARGV[1] then
    return 'none'
end
local is_asked = ARGV[2] == '1'
local function remove()
    if not is_asked then
        redis.call('DEL', KEYS[1], KEYS[2])
    end
    return 'removed'
end
if has_expired() then
    return remove()
end
local state = number('state')
if state == 2 or state == 3 then
    local kept_until = number('kept_until')
    if not kept_until then
        return remove()
    end
    if state == 2 and redis.call('EXISTS', KEYS[2]) == 0 then
        return 'kept'
    end
    if not is_asked then
        redis.call('HSET', KEYS[1], 'state', '0', 'expires_at', text(kept_until))
        redis.call('HDEL', KEYS[1], 'kept_until')
        redis.call('DEL', KEYS[2])
    end
    return 'emptied'
end
if state == -1 and redis.call('HEXISTS', KEYS[1], 'reason') == 1 then
    if not is_asked then
        redis.call('HDEL', KEYS[1], 'reason')
    end
    return 'emptied'
end
return 'kept'
