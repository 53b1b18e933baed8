-- Records an entry of the journal, once, and renews the lease.
-- 1 claim, 2 duration of the lease, 3 how long the record lives, 4 position, 5 kind, 6 name, 7 format or nothing, 8 status
-- or nothing, 9 headers, 10 body, 11 undoes or nothing
local REJECTION = '3'
local CALL_STARTED = '6'

if not is_held(ARGV[1]) then
    return 'lost'
end
local function field(name)
    return ARGV[4] .. '.' .. name
end
local kind, name, claim = unpack(redis.call('HMGET', KEYS[1], field('kind'), field('name'), field('claim')))
if kind then
    -- The same entry may come again, since its answer was lost. A started call gives way to its answer, or to a rejection.
    local is_same = claim == ARGV[1] and name == ARGV[6] and kind == ARGV[5]
    local is_answer = kind == CALL_STARTED and (name == ARGV[6] or ARGV[5] == REJECTION)
    if not (is_same or is_answer) then
        return 'lost'
    end
end
redis.call(
    'HSET', KEYS[1], field('kind'), ARGV[5], field('name'), ARGV[6], field('claim'), ARGV[1], field('format'), ARGV[7],
    field('status'), ARGV[8], field('headers'), ARGV[9], field('body'), ARGV[10], field('undoes'), ARGV[11],
    field('at'), text(now)
)
renew(ARGV[2], ARGV[3])
if ARGV[5] == REJECTION then
    -- It must not expire before it is undone.
    redis.call('HSET', KEYS[1], 'state', '5')
    live_until(now + NEVER)
end
return 'kept'
