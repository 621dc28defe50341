-- The job is free to run again when it is due. Answers 1 again to the same lease.
-- ARGV: the lease (fence, owner, attempt, crashes, first failed at, sent at, rounds, done, digest, stem), delay ms,
-- counted (0|1), record ttl ms, failure, waits for
local key, delay = KEYS[1], tonumber(ARGV[11])
local before = state_under(redis.call('HMGET', key, 'fence', 'owner', 'state'), key, unpack(ARGV, 1, 10))
if before ~= 'running' then
  return before and 1 or 0
end
redis.call('PEXPIRE', key, delay + tonumber(ARGV[13])) -- first, as in `lend`
if ARGV[12] == '0' then
  redis.call('HINCRBY', key, 'attempt', -1)
end
if ARGV[14] ~= '' then
  redis.call('HSET', key, 'failure', ARGV[14])
  if ARGV[5] == '0' then
    redis.call('HSET', key, 'first_failed_at', now)
  end
end
redis.call('HSET', key, 'state', 'waiting', 'due_at', now + delay, 'span', delay)
redis.call('HDEL', key, 'lease_until', 'waits_for')
if ARGV[15] ~= '' then
  redis.call('HSET', key, 'waits_for', ARGV[15])
end
return 1
