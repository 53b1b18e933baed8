-- Ends the lease and keeps the journal. 1 claim, 2 the claim of nobody, 3 whether the attempt has run
if not is_held(ARGV[1]) then
    return 'lost'
end
redis.call('HSET', KEYS[1], 'claim', ARGV[2], 'lease_until', text(now))
if ARGV[3] == '1' then
    redis.call('HINCRBY', KEYS[1], 'released', 1)
else
    redis.call('HINCRBY', KEYS[1], 'attempt', -1)
end
return 'kept'
