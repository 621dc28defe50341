-- How far the running job is. ARGV: fence, owner, percent, step, note
local row = redis.call('HMGET', KEYS[1], 'fence', 'owner', 'state')
if row[1] ~= ARGV[1] or row[2] ~= ARGV[2] or row[3] ~= 'running' then
  return 0
end
redis.call('HSET', KEYS[1], 'percent', ARGV[3], 'step', ARGV[4], 'note', ARGV[5])
return 1
