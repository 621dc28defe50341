-- Attempts and crashes count from here on. That crashes_before is there says so. ARGV: fence, owner
if not runs_under(KEYS[1], ARGV[1], ARGV[2]) then
  return 0
end
local row = redis.call('HMGET', KEYS[1], 'crashes', 'crashes_before', 'ahead')
redis.call('HSET', KEYS[1], 'attempt', 1, 'crashes', 0, 'crashes_before', (row[1] or 0) + (row[2] or 0))
if row[3] == '1' then
  redis.call('HDEL', KEYS[1], 'ahead') -- it has begun
end
return 1
