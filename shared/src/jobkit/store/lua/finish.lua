-- The job is done or dead. Answers 1 again to the same lease.
-- ARGV: the lease (fence, owner, attempt, crashes, first failed at, sent at, rounds), state, record ttl ms, result, failure
local key, state = KEYS[1], ARGV[8]
local before = state_under(key, unpack(ARGV, 1, 7))
-- Waiting, if its worker has handed the job back on its behalf, and it came to an end after all.
if before ~= 'running' and before ~= 'waiting' then
  return before == state and 1 or 0
end
if state == 'done' then
  redis.call('HSET', key, 'state', state, 'finished_at', now, 'result', ARGV[10], 'failure', ARGV[11], 'percent', 100)
else
  redis.call('HSET', key, 'state', state, 'finished_at', now, 'result', ARGV[10], 'failure', ARGV[11])
end
redis.call('HDEL', key, 'lease_until', 'due_at', 'span')
redis.call('PEXPIRE', key, tonumber(ARGV[9]))
return 1
