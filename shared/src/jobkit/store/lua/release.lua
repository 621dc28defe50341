-- The job is free to run again when it is due. Answers 1 again to the same lease.
-- ARGV: the lease (fence, owner, attempt, crashes, first failed at, sent at), delay ms, counted (0|1), record ttl ms,
-- failure, waits for
local key, delay = KEYS[1], tonumber(ARGV[7])
local before = state_under(key, unpack(ARGV, 1, 6))
if before ~= 'running' then
  return before and 1 or 0
end
if ARGV[8] == '0' then
  redis.call('HINCRBY', key, 'attempt', -1)
end
if ARGV[10] ~= '' then
  redis.call('HSET', key, 'failure', ARGV[10])
  if ARGV[5] == '0' then
    redis.call('HSET', key, 'first_failed_at', now)
  end
end
redis.call('HSET', key, 'state', 'waiting', 'due_at', now + delay, 'span', delay)
redis.call('HDEL', key, 'lease_until', 'waits_for')
if ARGV[11] ~= '' then
  redis.call('HSET', key, 'waits_for', ARGV[11])
end
redis.call('PEXPIRE', key, delay + tonumber(ARGV[9]))
return 1
