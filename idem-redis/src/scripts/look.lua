-- Reads a record. 1 whether with contents, 2 member of the index: a run that is over leaves it, and so does one that has
-- expired without a word. 3 whether with the journal
if ARGV[2] ~= '' and (not exists or (is_there() and not is_leased())) then
    redis.call('ZREM', KEYS[3], ARGV[2])
end
if not exists then
    return { 'none', now }
end
local journal = {}
if ARGV[3] == '1' then
    journal = redis.call('HGETALL', KEYS[1])
end
return { 'seen', now, seen(ARGV[1]), journal, redis.call('HGET', KEYS[1], 'input') }
