-- How far the running job is. ARGV: fence, owner, percent, step, note
if not runs_under(KEYS[1], ARGV[1], ARGV[2]) then
  return 0
end
redis.call('HSET', KEYS[1], 'percent', ARGV[3], 'step', ARGV[4], 'note', ARGV[5])
return 1
