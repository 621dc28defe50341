-- Replace a service's schedules. One script, because two workers may announce different lists at once.
-- KEYS: lists, ticks, rounds, actors. ARGV: service, its list, now ('' for the store's clock), rollout s, its actors
-- ('' for none), then name and expression of each schedule
local was_listed = redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1
local round = redis.call('HINCRBY', KEYS[3], ARGV[1], 1)
local now, rollout = ARGV[3], tonumber(ARGV[4])
if now == '' then
  local time = redis.call('TIME')
  now = time[1] .. '.' .. string.format('%06d', time[2])
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[4], ARGV[1], ARGV[5])
end
for i = 6, #ARGV, 2 do
  local name, when = ARGV[i], ARGV[i + 1]
  local kept = {}
  for other, cursor in pairs(read(KEYS[2], name).cursors or {}) do
    local listed = other == when and was_listed and tonumber(cursor.round) == round - 1
    -- Seen in the future: the clock was ahead, and nobody knows when that was.
    if listed or math.abs(tonumber(now) - tonumber(cursor.seen)) <= rollout then
      kept[other] = cursor
    end
  end
  local cursor = kept[when] or {last = now}
  cursor.seen, cursor.round = now, tostring(round)
  kept[when] = cursor
  redis.call('HSET', KEYS[2], name, cjson.encode({when = when, cursors = kept}))
end
