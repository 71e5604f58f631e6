-- Forgets processes that were silent for too long and counts the sums anew. ask.lua asks
-- one caller for it every few seconds; its cost grows with the number of processes.
--
-- KEYS   see common.lua, which stands before it
-- ARGV   none
-- reply  how many processes were forgotten

local STALE = 15000000 -- a process that was silent for so long is dead

local flat = redis.call('HGETALL', key)
for i = 1, #flat, 2 do g[flat[i]] = flat[i + 1] end
take_clock()

local flight, interactive, bulk, forgotten, alive = 0, 0, 0, 0, {}
for i = 1, #flat, 2 do
  local field = flat[i]
  if string.sub(field, 1, 2) == 'p:' then
    local at, f, w, b = string.match(flat[i + 1], '^(%d+) (%d+) (%d+) (%d+)')
    if not at or now - tonumber(at) > STALE then
      drop(field)
      forgotten = forgotten + 1
    else
      alive[string.sub(field, 3)] = true
      flight, interactive, bulk = flight + f, interactive + w, bulk + b
    end
  end
end
put('flight', whole(flight))
put('interactive', whole(interactive))
put('bulk', whole(bulk))

read_called(interval_of(tonumber(g.set or g.pace or '0')), '')
for i = #called, 1, -1 do
  if not alive[called[i][1]] then table.remove(called, i) end
end
local gone_from_line = {}
local members = redis.call('ZRANGE', line, 0, -1)
for _, who in ipairs(members) do
  if not alive[who] then gone_from_line[#gone_from_line + 1] = who end
end
for i = 1, #gone_from_line, 100 do
  redis.call('ZREM', line, unpack(gone_from_line, i, math.min(i + 99, #gone_from_line)))
end
lined = #members - #gone_from_line
if lined > 0 then redis.call('EXPIRE', line, 3600) end
write_called()
write_gate()
return forgotten
