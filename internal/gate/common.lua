-- The part that ask.lua, report.lua and sweep.lua share; it is put before each of them.
--
-- KEYS[1]  neuronmill:gate:{M}, the hash of the gate of M
-- KEYS[2]  neuronmill:gate:{M}:line, a sorted set: the processes that stand in line for
--          bulk, by the number of the question that put them there
--
-- Times are microseconds of Redis' own clock, so the clocks of workers do not matter.
-- docs/redis-schema.md describes the fields.

local key, line = KEYS[1], KEYS[2]
local name = string.match(key, '{(.*)}')
local TO, NEWS = 'neuronmill:gate:to:', 'neuronmill:gate:news'
local SPREAD = 1.01     -- spacing a little wider than the limit: jitter on the way must not fill a window
local LATE = 250000     -- a called process that is later than this, or than one interval, loses its place
local KEEP = 100000     -- a slot that was kept for bulk may be used so much later
local IDLE = 30000      -- a slot is anyone's when its owner has not come for so long
local STAND_IN = 40000  -- and another process asks for it then, where owners come late

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])

local g = {}             -- fields of the gate, as strings
local changes, gone = {}, {}
local function whole(x) return string.format('%.0f', x) end
local function num(field) return tonumber(g[field] or '0') end
local function put(field, value)
  g[field] = tostring(value)
  changes[field] = g[field]
  gone[field] = nil
end
local function drop(field)
  if g[field] then gone[field] = true end
  g[field], changes[field] = nil, nil
end

local FIELDS = {
  'pace', 'source', 'set', 'factor', 'ceiling', 'next', 'credit', 'calls',
  'closed', 'why', 'probe', 'hold', 'auth', 'shut', 'fails', 'throttled_at', 'width', 'width_from',
  'seen', 'seq', 'era', 'called', 'lined', 'kept', 'late', 'tail', 'flight', 'interactive', 'bulk', 'swept',
}

-- take_clock notes the time and the number of this question. A clock that was set back
-- moves all times with it; reservations made before are void.
local seq
local function take_clock()
  local back = num('seen') - now
  if g.seen and back > 1000000 then
    for _, field in ipairs({'next', 'closed', 'probe', 'hold', 'shut', 'throttled_at', 'swept'}) do
      if g[field] then put(field, whole(num(field) - back)) end
    end
    put('era', whole(num('era') + 1))
  end
  seq = math.max(num('seq') + 1, now)
  put('seq', whole(seq))
  put('seen', whole(now))
end

-- read_gate reads the fields, with what Redis has of one process. Its cost does not
-- depend on how many processes there are.
local function read_gate(process)
  local own = 'p:' .. process
  FIELDS[#FIELDS + 1] = own
  local values = redis.call('HMGET', key, unpack(FIELDS))
  for i, field in ipairs(FIELDS) do
    if values[i] then g[field] = values[i] end
  end
  take_clock()
end

local function own_figures(process)
  local calls, interactive, bulk, seats = string.match(g['p:' .. process] or '', '^%d+ (%d+) (%d+) (%d+) ?(.*)$')
  return tonumber(calls or '0'), tonumber(interactive or '0'), tonumber(bulk or '0'), seats or ''
end

-- tell writes what a process has at the gate, and moves the sums over all processes.
local function tell(process, calls, interactive, bulk, seats)
  local f, i, b = own_figures(process)
  put('flight', whole(math.max(0, num('flight') + calls - f)))
  put('interactive', whole(math.max(0, num('interactive') + interactive - i)))
  put('bulk', whole(math.max(0, num('bulk') + bulk - b)))
  put('p:' .. process, table.concat({whole(now), calls, interactive, bulk, seats}, ' '))
end

-- interval_of is the time between two slots; 0 when the pace is.
local function interval_of(pace)
  if pace <= 0 then return 0 end
  return 60000000 * SPREAD / (pace * tonumber(g.factor or '1'))
end

-- The called: processes with bulk callers that were told a time to ask at, in the order
-- of their turns. That is a time to ask, not a right to a slot. kept are slots between
-- reserved ones: b is for bulk, which has a share; f was given back and is for anyone.
local called, lined, kept = {}, 0, {}
local dropped = 0 -- of the called, because they did not ask
local function read_called(interval, process)
  lined = num('lined')
  local late = math.max(interval, LATE)
  for who, due, listens in string.gmatch(g.called or '', '([^ ]+) (%d+) (%d);') do
    if who == process or tonumber(due) + late >= now then
      called[#called + 1] = {who, tonumber(due), tonumber(listens)}
    else
      dropped = dropped + 1
    end
  end
end
local function read_kept()
  for slot, whose in string.gmatch(g.kept or '', '(%d+)(%a)') do
    if tonumber(slot) + KEEP >= now then kept[#kept + 1] = {tonumber(slot), whose} end
  end
end
local function write_kept()
  local entries = {}
  for i, k in ipairs(kept) do entries[i] = whole(k[1]) .. k[2] end
  if #entries > 0 then put('kept', table.concat(entries, ' ')) else drop('kept') end
end

-- keep returns the rank of the called process whose slot it is now.
local function keep(slot, whose)
  local i = 1
  while kept[i] and kept[i][1] <= slot do i = i + 1 end
  table.insert(kept, i, {slot, whose})
  while #kept > 200 do table.remove(kept) end
  return i
end

-- slot_of is the slot of the called process of this rank, as of now.
local function slot_of(rank, interval)
  if kept[rank] then return kept[rank][1] end
  return num('next') + (rank - 1 - #kept) * interval
end

-- On a quiet machine a called process is told to ask at its slot. Where processes come
-- late, because they and the network are busy, their usual lateness (field late) is
-- allowed for: they are told to ask so much ahead, and let through for their own slot.
local function ahead()
  return math.max(0, math.min(50000, 1.5 * num('late') - 5000))
end

-- Where some come very late or never (field tail is the part of them), and a slot is
-- long, the next process is called a moment after the slot before its own, to take that
-- if its owner has not come.
local function stand_in(interval)
  return interval >= 100000 and num('tail') > 0.02
end
local function note_lateness(late)
  put('late', whole(num('late') + 0.05 * (math.min(late, 300000) - num('late'))))
  if late >= 60000 then
    put('tail', num('tail') * 0.95 + 0.05)
  elseif g.tail then
    put('tail', num('tail') * 0.95)
    if num('tail') < 0.001 then drop('tail') end
  end
end

-- due_of is when the process of this rank is told to ask at first.
local function due_of(rank, interval)
  local sooner = ahead()
  if stand_in(interval) then sooner = math.max(sooner, interval - STAND_IN) end
  return math.max(now, slot_of(rank, interval) - sooner)
end

local function write_called()
  local entries = {}
  for i, c in ipairs(called) do entries[i] = c[1] .. ' ' .. whole(c[2]) .. ' ' .. c[3] .. ';' end
  if #entries > 0 then put('called', table.concat(entries)) else drop('called') end
  if dropped > 0 then put('tail', math.min(0.5, num('tail') + 0.05 * dropped)) end
  put('lined', whole(math.max(0, lined)))
end
local function rank_of(process)
  for i, c in ipairs(called) do
    if c[1] == process then return i end
  end
end
local function leave_turn(process, in_line)
  local i = rank_of(process)
  if i then table.remove(called, i) end
  if in_line then lined = lined - redis.call('ZREM', line, process) end
end

-- listeners counts the called that can be told of their turn.
local function listeners()
  local n = 0
  for _, c in ipairs(called) do
    if c[3] > 0 then n = n + 1 end
  end
  return n
end

-- places is how many listeners are called at a time: 6 or the slots of 120 ms, at a slow
-- pace those of 1.2 s, at least 3. When some have died it is more: those behind them may
-- be of the same host.
local function places(interval)
  local span = math.max(120000, math.min(6 * interval, 1200000))
  return math.max(3, math.min(32, math.ceil(span / interval - 0.1) + 2 * dropped))
end

-- call tells a process when to ask: the time until then, the number of this question, and
-- the gate. It returns how many processes heard it, on this node.
local function call(who, due)
  return redis.call('PUBLISH', TO .. who, table.concat({whole(math.max(0, due - now)), whole(seq), name}, ' '))
end

-- call_line calls the first of the line while there are places, and tells each when to
-- ask. strict says that a message without a receiver means a dead process.
local function call_line(interval, process, listens)
  if interval <= 0 then return end
  local free = places(interval) - listeners()
  for _ = 1, 4 do
    if free <= 0 or lined <= 0 then return end
    local popped = redis.call('ZPOPMIN', line, free)
    lined = lined - #popped / 2
    if #popped / 2 < free then lined = 0 end
    for i = 1, #popped, 2 do
      local who = popped[i]
      local due = due_of(#called + 1, interval)
      local heard = who == process and 1 or call(who, due)
      if heard > 0 or listens ~= 2 then
        called[#called + 1] = {who, due, 1}
        free = free - 1
      end
    end
  end
end

-- announce makes every process that waits at this gate ask anew. Reservations are void.
local function announce()
  kept = {}
  drop('kept')
  put('era', whole(num('era') + 1))
  redis.call('PUBLISH', NEWS, name)
end

local function write_gate()
  local flat, dead = {}, {}
  for field, value in pairs(changes) do
    flat[#flat + 1] = field
    flat[#flat + 1] = value
  end
  for field in pairs(gone) do dead[#dead + 1] = field end
  redis.call('HSET', key, unpack(flat))
  if #dead > 0 then redis.call('HDEL', key, unpack(dead)) end
end
