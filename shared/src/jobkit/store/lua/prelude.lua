-- Stands before each script: for how long a record is lent, and whose it is. Before it stands the clock, `now`.

-- PEXPIRE comes first. When Redis is full, it refuses the first write of a script if that may take memory. So leases
-- are renewed all the same, and what ends gets room.
local function lend(key, ttl, record_ttl)
  redis.call('PEXPIRE', key, ttl + record_ttl)
  redis.call('HSET', key, 'lease_until', now + ttl, 'span', ttl)
end

-- Whether the job runs under this lease.
local function runs_under(key, fence, owner)
  local row = redis.call('HMGET', key, 'fence', 'owner', 'state')
  return row[1] == fence and row[2] == owner and row[3] == 'running'
end
