-- What a run of the job has stored first under a name. ARGV: fence, owner, field, what this run would store
if not runs_under(KEYS[1], ARGV[1], ARGV[2]) then
  return false
end
redis.call('HSETNX', KEYS[1], ARGV[3], ARGV[4])
return redis.call('HGET', KEYS[1], ARGV[3])
