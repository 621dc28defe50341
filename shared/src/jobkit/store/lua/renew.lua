-- Extend leases that are still theirs, lapsed or not: as long as nobody else was given one, nothing is lost.
-- KEYS: the records. ARGV: ttl ms, record ttl ms, then the lease (fence, owner, attempt, crashes, first failed at,
-- sent at, rounds) of each
local ttl, record_ttl = tonumber(ARGV[1]), tonumber(ARGV[2])

-- The state; nil too if something else was put in the record's place, so that the other leases are renewed all the same.
local function state_of(key, ...)
  local ok, state = pcall(state_under, key, ...)
  if not ok and not string.find(type(state) == 'table' and state.err or tostring(state), 'WRONGTYPE') then
    error(state)
  end
  return ok and state or nil
end

local held = {}
for i, key in ipairs(KEYS) do
  if state_of(key, unpack(ARGV, 7 * i - 4, 7 * i + 2)) == 'running' then
    lend(key, ttl, record_ttl)
    held[i] = 1
  else
    held[i] = 0
  end
end
return held
