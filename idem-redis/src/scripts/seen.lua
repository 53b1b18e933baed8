-- The fields of the record that decide, in the order in which they are read, and the reply that is kept apart from it.
-- Without contents, a reply and a result are left out, and what is there is told by its format.
local function seen(contents)
    local head = redis.call(
        'HMGET', KEYS[1], 'version', 'scope', 'operation', 'key_hash', 'state', 'claim', 'fingerprint', 'expires_at',
        'kept_until', 'completed_at', 'created_at', 'lease_until', 'attempt', 'released', 'reason'
    )
    local function reply(key)
        if contents == '1' then
            return redis.call('HMGET', key, 'format', 'status', 'headers', 'body')
        end
        return redis.call('HMGET', key, 'format', 'status')
    end
    local kept = reply(KEYS[1])
    if not kept[1] and redis.call('HGET', KEYS[1], 'kept_until') then
        kept = reply(KEYS[2])
    end
    return { head, kept }
end
