-- A process has ended: so have its leases. Beats and claims of it that arrive later change nothing.
-- KEYS: the process. ARGV: the numbers of the owners whose job had begun, as ",3,17,"; record ttl ms
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2])) -- first, as in `lend`; and again, should there be none yet
redis.call('HSET', KEYS[1], 'begun', ARGV[1])
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2]))
