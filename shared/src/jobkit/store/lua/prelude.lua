-- Stands before each script: for how long a record is lent, and whose it is. Before it stands the clock, `now`.

local function lend(key, ttl, record_ttl)
  redis.call('HSET', key, 'lease_until', now + ttl, 'span', ttl)
  redis.call('PEXPIRE', key, ttl + record_ttl)
end

-- Whether the job runs under this lease.
local function runs_under(key, fence, owner)
  local row = redis.call('HMGET', key, 'fence', 'owner', 'state')
  return row[1] == fence and row[2] == owner and row[3] == 'running'
end

-- The job's state, if its record is this lease's; else nil. A lower fence than the lease's is from before it: Redis has
-- lost what it was told last. So the record is written again, unless it says that the job is done. The caller says how
-- long it lasts.
local function state_under(key, fence, owner, attempt, crashes, first_failed_at, sent_at, rounds)
  local row = redis.call('HMGET', key, 'fence', 'owner', 'state')
  if row[1] == fence and row[2] == owner then
    return row[3]
  end
  if row[1] and (tonumber(row[1]) >= tonumber(fence) or row[3] == 'done') then
    return nil
  end
  redis.call('DEL', key)
  redis.call('HSET', key, 'state', 'running', 'fence', fence, 'owner', owner, 'attempt', attempt, 'crashes', crashes,
    'first_failed_at', first_failed_at, 'sent_at', sent_at)
  if rounds ~= '' then
    redis.call('HSET', key, 'rounds', rounds)
  end
  return 'running'
end

