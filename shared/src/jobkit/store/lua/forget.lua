-- Remove what was remembered under a name. ARGV: fence, owner, field
if not runs_under(KEYS[1], ARGV[1], ARGV[2]) then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[3])
return 1
