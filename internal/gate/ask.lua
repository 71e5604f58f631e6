-- One question to a gate: may a call leave now? Its cost is the same however many
-- processes wait. common.lua stands before it.
--
-- KEYS   see common.lua
-- ARGV   process, lane (interactive, bulk, or leave: the process' bulk callers have left),
--        pace of the table, its source, the caller's reserved slot (0: none), the era of
--        that reservation, patience; of the process: calls in flight, interactive and
--        bulk callers waiting, how many of each may wait; the share of bulk; whether it
--        listens for messages (0 no, 1 yes, 2 yes and all processes are on this node);
--        whether it takes itself to stand in line (0, 1)
-- reply  what, wait, why, now, reserved slot (of go: its slot), era, interval, callers of
--        the lane in other processes, probe, report, the next free slot after this one
--        was taken, sweep, the process' bulk turn after this (none, called, line), time
--        until that, number of this question
--
-- what is go, wait (until the slot or the time to ask), line (until a message comes; why
-- and wait are the gate's, when it is closed), pause, closed or narrow.
-- No reply but go has a wait of zero or less. That of go is until the slot, when the caller
-- came a moment early.

local process, lane, source = ARGV[1], ARGV[2], ARGV[4]
local ticket, era, patience = tonumber(ARGV[5]), ARGV[6], math.max(0, tonumber(ARGV[7]))
local calls, interactive, bulk = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local seats, share = ARGV[11] .. ' ' .. ARGV[12], tonumber(ARGV[13])
local listens, in_line = tonumber(ARGV[14]), ARGV[15] == '1'

local EARLY = 1000        -- a caller may come so early
local TOLERANCE = 50000   -- and so late without losing the slot
local PROBE = 2000000     -- refusals come at once; no refusal for so long is a yes
local POLL = 50000
local LEAD = 20000        -- a call may leave so long before its slot, where callers come late

read_gate(process)
if g.pace ~= ARGV[3] or g.source ~= source then
  put('pace', ARGV[3])
  put('source', source)
end
local interval = interval_of(tonumber(g.set or ARGV[3]))
if not g.swept and num('next') - now > patience + interval + 10000000 then put('next', whole(now)) end -- an earlier version's clock
local is_bulk = lane == 'bulk'
read_called(interval, process)
read_kept()

-- The other processes' part of the sums.
local own_calls, own_interactive, own_bulk = own_figures(process)
local others_flight = math.max(0, num('flight') - own_calls)
local others_interactive = math.max(0, num('interactive') - own_interactive)
local others_bulk = math.max(0, num('bulk') - own_bulk)

local tolerance = TOLERANCE
if interval >= 100000 then tolerance = tolerance + ahead() end
local slot = math.max(num('next'), now - tolerance)
local booked, probe = 0, false
local function take(at)
  booked = math.floor(at + interval + 0.5)
  put('next', whole(booked))
end

local function answer(what, wait, why, reserved, report)
  local goes = what == 'go'
  local leaves = goes or what == 'pause' or what ~= 'line' and what ~= 'wait' and wait > patience
  local i, b = interactive, bulk
  if leaves and is_bulk then b = math.max(0, b - 1) end
  if leaves and lane == 'interactive' then i = math.max(0, i - 1) end
  if is_bulk and leaves and b == 0 then
    leave_turn(process, in_line)
    in_line = false
  end
  local at = rank_of(process)
  if at and is_bulk and not goes then called[at][2] = now + wait end
  call_line(interval, process, listens)
  at = rank_of(process)
  tell(process, calls + (goes and 1 or 0), i, b, seats)
  local sweep = 0
  if now - num('swept') > math.max(2000000, math.min(3 * interval, 10000000)) then
    sweep = 1
    put('swept', whole(now))
  end
  write_called()
  write_kept()
  write_gate()
  local turn, due = 'none', 0
  if at then
    turn, due = 'called', math.max(0, called[at][2] - now)
  elseif in_line then
    turn, due = 'line', math.max(1000000, (#called + lined) * interval)
  end
  return {
    what, math.ceil(wait), why, now, math.floor(reserved or 0), tonumber(g.era or '0'), math.floor(interval),
    is_bulk and others_bulk or others_interactive, goes and probe and 1 or 0, report and 1 or 0, booked, sweep, turn, math.ceil(due), seq,
  }
end

-- place gives the process a turn for its bulk callers: among the called, or in line.
local function place()
  if rank_of(process) then return end
  if listens == 0 or lined <= 0 and listeners() < places(interval) then
    if in_line then lined = lined - redis.call('ZREM', line, process) end
    in_line = false
    called[#called + 1] = {process, due_of(#called + 1, interval), math.min(listens, 1)}
    return
  end
  lined = lined + redis.call('ZADD', line, 'NX', whole(seq), process)
  in_line = true
end

-- not_now answers a caller that the gate's state sends away or lets wait. Of bulk only
-- the called ask again by themselves.
local function not_now(what, wait, why)
  if is_bulk and wait <= patience then
    place()
    call_line(interval, process, listens)
    in_line = in_line and not rank_of(process)
    if in_line then return answer('line', wait, why) end
  end
  return answer(what, wait, why)
end

-- kept_for_anyone takes the first slot that was given back, or that bulk has left.
local function kept_for_anyone()
  for i, k in ipairs(kept) do
    if k[2] == 'f' or k[1] + IDLE <= now then return table.remove(kept, i) end
  end
end

-- poll is the time between two looks at a gate that may open any moment.
local function poll()
  local waiting = is_bulk and #called or others_interactive + interactive
  return math.min(1000000, POLL * math.max(1, math.floor(waiting / 8)))
end

if lane == 'leave' then
  leave_turn(process, true)
  in_line = false
  return answer('wait', 1, '')
end
if interval <= 0 then
  if is_bulk then leave_turn(process, in_line) end
  in_line = in_line and not is_bulk
  return answer('pause', 60000000, 'its pace is set to 0')
end

-- A refused account closes its gate in steps (report.lua). Earlier versions wrote no end.
local closed = num('closed')
if g.hold and not g.closed then closed = num('hold') + 60000000 end
if closed > now then return not_now('closed', closed - now, g.why or '') end
if closed > 0 then
  local since = num('probe')
  if since == 0 or since > now then
    probe = true
  elseif since + PROBE > now then
    return not_now('closed', poll(), g.why or '')
  else
    for _, field in ipairs({'closed', 'why', 'probe', 'hold'}) do drop(field) end
  end
end
if g.width then
  local full = others_flight + calls >= math.floor(num('width'))
  local behind = is_bulk and others_interactive + interactive > 0 and num('credit') < 1
  if full or behind then
    return not_now('narrow', poll(), 'the model has little capacity')
  end
end

local early = slot - now
if ticket > 0 and (era ~= (g.era or '0') or now - ticket > math.max(interval, 100000)) then
  ticket = 0 -- void, or too late: the line has moved on
end
if ticket > 0 then
  if ticket - now > EARLY then return answer('wait', ticket - now, '', ticket) end
  slot, booked = ticket, math.floor(ticket + interval + 0.5)
elseif not is_bulk then
  local given_back = kept_for_anyone()
  if given_back then early = given_back[1] - now end
  if early > patience then
    if given_back then keep(given_back[1], given_back[2]) end
    return answer('pause', early, 'paced')
  end
  if given_back then slot = given_back[1] else take(slot) end
  if given_back then
    booked = slot -- it is not the last one
  elseif others_bulk + bulk > 0 and share > 0 then
    put('credit', math.min(num('credit') + share / (1 - share), 1))
    if num('credit') >= 1 and early > interval then
      -- interactive callers have had their share: the slot after this one is bulk's
      put('credit', num('credit') - 1)
      keep(booked, 'b')
      put('next', whole(booked + interval))
    end
  end
  if early > EARLY then
    return answer('wait', early, '', slot)
  end
else
  local told = rank_of(process)
  if told then note_lateness(math.max(0, now - called[told][2])) end
  place()
  call_line(interval, process, listens)
  local rank = rank_of(process)
  if not rank then
    return answer('line', math.max(1000000, lined * interval), '')
  end
  in_line = false
  local wait = slot_of(rank, interval) - now
  local soon = math.max(EARLY, ahead())
  if slot_of(1, interval) + IDLE <= now then wait = 0 end
  if wait > soon then
    if #kept == 0 and early > patience then return answer('pause', early, 'paced') end
    return answer('wait', math.max(EARLY, wait - ahead()), '')
  end
  if kept[1] and kept[1][1] <= now + soon then
    slot = table.remove(kept, 1)[1]
  else
    take(slot)
    if g.credit then put('credit', math.max(0, num('credit') - 1)) end
  end
end
if probe then put('probe', whole(now)) end
put('calls', whole(num('calls') + 1))
if is_bulk then
  leave_turn(process, in_line)
  in_line = false
  if bulk > 1 then place() end -- for the next of its callers
end
return answer('go', math.max(0, slot - now - LEAD), '', slot, probe or g.factor or g.width or g.fails or g.auth)
