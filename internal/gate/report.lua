-- What a call has met, told to its gate.
--
-- KEYS   see common.lua, which stands before it
-- ARGV   outcome, when the call was let through, whether it was the probe, advice of the
--        API or jitter in microseconds, process, its calls in flight; for "returned": the
--        slot, the next free slot after it was taken, whether the call was let through
-- reply  closed for, whether this report closed it, why

local outcome, process = ARGV[1], ARGV[5]
local granted, probe, advice = tonumber(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4])

read_gate(process)
-- Calls let through before the gate last closed belong to the flight that closed it:
-- what they meet is no news.
local news = granted > num('shut')
local factor, fails = tonumber(g.factor or '1'), num('fails')

local own_calls, own_interactive, own_bulk, seats = own_figures(process)
local flight = math.max(0, num('flight') - own_calls) + tonumber(ARGV[6]) + 1
tell(process, tonumber(ARGV[6]), own_interactive, own_bulk, seats)

local function close(until_, why)
  local was = num('closed')
  if until_ <= was then return {math.ceil(was - now), 0, g.why or ''} end
  put('closed', whole(until_))
  put('why', why)
  put('next', whole(until_))
  put('shut', whole(now))
  drop('probe')
  if was <= now then announce() end
  return {math.ceil(until_ - now), was > now and 0 or 1, why}
end
local function stays()
  if g.hold and not g.closed then return {60000000, 0, g.why or ''} end -- an earlier version's
  return {math.max(0, math.ceil(num('closed') - now)), 0, g.why or ''}
end

local outcomes = {}

function outcomes.passed()
  if not news then return stays() end
  for _, field in ipairs({'closed', 'why', 'probe', 'fails', 'auth', 'hold'}) do drop(field) end
  if g.factor then -- heals by 5 % of the pace a minute up to where it broke, then by 1 %
    local pace = tonumber(g.set or g.pace or '20')
    local a_minute = factor < 0.95 * tonumber(g.ceiling or '1') and 0.05 or 0.01
    factor = factor + a_minute / math.max(1, pace * factor)
    put('factor', factor)
    if factor >= 1 then
      drop('factor')
      drop('ceiling')
    end
  end
  if g.width then
    local width = num('width') + 1 / num('width')
    put('width', width)
    if width >= 2 * tonumber(g.width_from or '1') then
      drop('width')
      drop('width_from')
    end
  end
  return {0, 0, ''}
end

function outcomes.throttled()
  redis.call('HINCRBY', key, 'throttled', 1)
  if not news and advice == 0 then return stays() end
  if news then
    fails = fails + 1
    put('fails', fails)
    -- One refusal may be a chance; the second flight within two minutes is a pace
    -- that is too high. A refused probe says nothing about the pace.
    if not probe and now - num('throttled_at') < 120000000 then
      put('ceiling', factor)
      put('factor', math.max(0.02, factor * 0.8))
    end
    if not probe then put('throttled_at', whole(now)) end
  end
  local pause = advice
  if pause == 0 then pause = math.min(5000000 * 2 ^ (fails - 1), 60000000) end
  return close(now + pause, 'throttled by the API')
end

function outcomes.busy()
  redis.call('HINCRBY', key, 'busy', 1)
  if not news then return stays() end
  put('fails', fails + 1)
  put('width', math.max(1, math.floor(flight / 2)))
  put('width_from', math.max(flight, tonumber(g.width_from or '1')))
  return close(now + math.min(1000000 * 2 ^ fails, 60000000) + advice, 'the model has no capacity')
end

function outcomes.quota()
  -- The day is that of the call: an answer may come after midnight. Early in a day the
  -- API may not have turned the page yet.
  local day = 86400000000
  local until_ = (math.floor(granted / day) + 1) * day
  if now % day < 900000000 and until_ - now > 900000000 or until_ <= now then until_ = now + 300000000 end
  return close(until_ + advice, 'the free daily allocation is spent until 00:00 UTC')
end

function outcomes.refused()
  if not news then return stays() end
  local refusals = num('auth') + 1
  put('auth', refusals)
  if refusals == 1 then
    return close(now + 2000000, 'the account was refused: one confirming call follows')
  end
  -- One call finds out after 1, 2, 5 and then every 15 minutes whether it was repaired.
  local minutes = ({1, 2, 5})[refusals - 1] or 15
  local first = not g.hold
  if first then put('hold', whole(now)) end
  local closing = close(now + minutes * 60000000, 'the account is refused')
  closing[2] = first and 1 or 0
  return closing
end

-- The call was not made: slot, count and probe are free again.
function outcomes.returned()
  local slot, after = tonumber(ARGV[7]), tonumber(ARGV[8])
  if num('next') == after then
    put('next', whole(slot))
  elseif slot + KEEP > now and num('next') > now then -- others have reserved those behind it
    local interval = interval_of(tonumber(g.set or g.pace or '0'))
    read_called(interval, '')
    read_kept()
    for rank = keep(slot, 'f'), #called do -- their slots are sooner now
      called[rank][2] = math.max(now, slot_of(rank, interval) - ahead())
      if called[rank][3] > 0 then call(called[rank][1], called[rank][2]) end
    end
    write_called()
    write_kept()
  end
  if ARGV[9] == '1' then
    if num('calls') > 0 then put('calls', whole(num('calls') - 1)) end
    if probe and num('probe') == granted then drop('probe') end
  end
  return stays()
end

local reply = (outcomes[outcome] or stays)()
write_gate()
return reply
