-- What the first run of the job has made, for all later ones. ARGV: fence, owner, what this run has made
local row = redis.call('HMGET', KEYS[1], 'fence', 'owner', 'state')
if row[1] ~= ARGV[1] or row[2] ~= ARGV[2] or row[3] ~= 'running' then
  return false
end
redis.call('HSETNX', KEYS[1], 'made', ARGV[3])
return redis.call('HGET', KEYS[1], 'made')
