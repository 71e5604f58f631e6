-- One question to a gate: may a call leave now? Times are microseconds of Redis'
-- own clock, so the clocks of workers do not matter.
--
-- KEYS[1]  the gate, a hash
-- ARGV     process, lane, pace of the table, its source, ticket, patience,
--          and of the asking process: calls in flight, interactive and bulk waiting;
--          the share of bulk; how many interactive and bulk may wait in the process
-- reply    what, wait, why, now, ticket, interval, waiting in other processes, probe, report

local key, process, lane, source = KEYS[1], ARGV[1], ARGV[2], ARGV[4]
local ticket, patience = tonumber(ARGV[5]), tonumber(ARGV[6])
local flight, interactive, bulk = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local share = tonumber(ARGV[10])

local SPREAD = 1.01         -- spacing a little wider than the limit: jitter on the way must not fill a window
local TOLERANCE = 50000     -- a caller may come so late without losing the slot
local STALE = 15000000      -- a process that was silent for so long is dead
local PROBE = 2000000       -- refusals come at once; no refusal for so long is a yes
local POLL = 50000

local g = {}
local flat = redis.call('HGETALL', key)
for i = 1, #flat, 2 do g[flat[i]] = flat[i + 1] end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local function whole(x) return string.format('%.0f', x) end
local changes = {} -- written at once, with the answer
local function put(field, value)
  changes[#changes + 1] = field
  changes[#changes + 1] = value
end
-- What the process has at the gate from now on. A caller that leaves waits no more.
local function report(calls, leaves)
  local i, b = tonumber(ARGV[8]), tonumber(ARGV[9])
  if leaves and lane == 'interactive' then i = math.max(0, i - 1) end
  if leaves and lane ~= 'interactive' then b = math.max(0, b - 1) end
  put('p:' .. process, table.concat({whole(now), calls, i, b, ARGV[11], ARGV[12]}, ' '))
end

local others = 0
for field, value in pairs(g) do
  if string.sub(field, 1, 2) == 'p:' and field ~= 'p:' .. process then
    local at, f, i, b = string.match(value, '^(%d+) (%d+) (%d+) (%d+)')
    if not at or now - tonumber(at) > STALE then
      redis.call('HDEL', key, field)
    else
      flight, interactive, bulk = flight + f, interactive + i, bulk + b
      others = others + (lane == 'interactive' and i or b)
    end
  end
end
if g.pace ~= ARGV[3] or g.source ~= source then
  put('pace', ARGV[3])
  put('source', source)
end

local pace = tonumber(g.set or ARGV[3])
local interval = 0
local function answer(what, wait, why, seat, probe, told)
  if what ~= 'go' then report(ARGV[7], what == 'pause' or wait > patience) end
  redis.call('HSET', key, unpack(changes))
  return {what, math.ceil(wait), why, now, seat or 0, math.floor(interval), others, probe and 1 or 0, told and 1 or 0}
end

if g.hold then return answer('pause', 60000000, g.why or '') end
if pace <= 0 then return answer('pause', 60000000, 'its pace is set to 0') end
interval = 60000000 * SPREAD / (pace * tonumber(g.factor or '1'))

local closed, probe = tonumber(g.closed or '0'), false
if closed > now then return answer('closed', closed - now, g.why or '') end
if closed > 0 then
  local since = tonumber(g.probe or '0')
  if since == 0 or since > now then
    probe = true
  elseif since + PROBE > now then
    return answer('closed', POLL, g.why or '')
  else
    redis.call('HDEL', key, 'closed', 'why', 'probe')
  end
end
if g.width and flight >= math.floor(tonumber(g.width)) then
  return answer('narrow', POLL, 'the model has little capacity')
end

local after = tonumber(g.next or '0')
if after - now > patience + interval + 10000000 then after = now end -- the clock was set back
local slot = math.max(after, now - TOLERANCE)
local early = slot - now
if ticket > 0 and now - ticket > math.max(interval, 100000) then ticket = 0 end -- too late: the line has moved on
if ticket > 0 then
  if ticket - now > 500 then return answer('wait', ticket - now, '', ticket) end
elseif lane == 'interactive' then
  if early > patience then return answer('pause', early, 'paced') end
  put('next', whole(slot + interval))
  if bulk > 0 and share > 0 then put('credit', math.min(tonumber(g.credit or '0') + share / (1 - share), 1)) end
  if early > 0 then return answer('wait', early, '', slot) end
else
  if early > 0 then
    if early <= interval or tonumber(g.credit or '0') < 1 then
      return answer(early > patience and 'pause' or 'wait', early, early > patience and 'paced' or '')
    end
    -- interactive callers have had their share: this slot is bulk's
    put('credit', 0)
    put('next', whole(slot + interval))
    return answer('wait', early, '', slot)
  end
  put('next', whole(slot + interval))
end
if probe then put('probe', whole(now)) end
report(tonumber(ARGV[7]) + 1, true)
put('calls', whole(tonumber(g.calls or '0') + 1))
return answer('go', 0, '', 0, probe, probe or g.factor or g.width or g.fails or g.auth)
