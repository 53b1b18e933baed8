-- Renews the lease. 1 claim, 2 duration of the lease, 3 how long the record lives
if not is_held(ARGV[1]) then
    return 'lost'
end
renew(ARGV[2], ARGV[3])
return 'kept'
