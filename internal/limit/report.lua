-- What a call has met, told to its gate.
--
-- KEYS[1]  the gate
-- ARGV     outcome, when the call was let through, whether it was the probe,
--          advice of the API or jitter in microseconds, process, its calls in flight
-- reply    closed for, whether this report closed it, why

local key, outcome = KEYS[1], ARGV[1]
local granted, probe, advice = tonumber(ARGV[2]), ARGV[3] == '1', tonumber(ARGV[4])

local g = {}
local flat = redis.call('HGETALL', key)
for i = 1, #flat, 2 do g[flat[i]] = flat[i + 1] end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local function whole(x) return string.format('%.0f', x) end
local function put(field, value) redis.call('HSET', key, field, value) end

-- Calls let through before the gate last closed belong to the flight that closed it:
-- what they meet is no news.
local news = granted > tonumber(g.shut or '0')
local factor, fails = tonumber(g.factor or '1'), tonumber(g.fails or '0')

local flight = tonumber(ARGV[6]) + 1
for field, value in pairs(g) do
  if string.sub(field, 1, 2) == 'p:' and field ~= 'p:' .. ARGV[5] then
    local f = string.match(value, '^%d+ (%d+)')
    if f then flight = flight + f end
  end
end
local own = g['p:' .. ARGV[5]]
local waiting = own and string.match(own, '^%d+ %d+ (.*)$') or '0 0 0 0'
put('p:' .. ARGV[5], whole(now) .. ' ' .. ARGV[6] .. ' ' .. waiting)

local function close(until_, why)
  local was = tonumber(g.closed or '0')
  if until_ <= was then return {math.ceil(was - now), 0, g.why or ''} end
  redis.call('HSET', key, 'closed', whole(until_), 'why', why, 'next', whole(until_), 'shut', whole(now))
  redis.call('HDEL', key, 'probe')
  return {math.ceil(until_ - now), was > now and 0 or 1, why}
end
local function stays()
  if g.hold then return {60000000, 0, g.why or ''} end
  return {math.max(0, math.ceil(tonumber(g.closed or '0') - now)), 0, g.why or ''}
end

if outcome == 'passed' then
  if not news then return stays() end
  redis.call('HDEL', key, 'closed', 'why', 'probe', 'fails', 'auth')
  if g.factor then -- heals by 5 % of the pace a minute up to where it broke, then by 1 %
    local pace = tonumber(g.set or g.pace or '20')
    local a_minute = factor < 0.95 * tonumber(g.ceiling or '1') and 0.05 or 0.01
    factor = factor + a_minute / math.max(1, pace * factor)
    if factor >= 1 then redis.call('HDEL', key, 'factor', 'ceiling') else put('factor', factor) end
  end
  if g.width then
    local width = tonumber(g.width) + 1 / tonumber(g.width)
    if width >= 2 * tonumber(g.width_from or '1') then redis.call('HDEL', key, 'width', 'width_from')
    else put('width', width) end
  end
  return {0, 0, ''}
end

if outcome == 'throttled' then
  redis.call('HINCRBY', key, 'throttled', 1)
  if not news and advice == 0 then return stays() end
  if news then
    fails = fails + 1
    put('fails', fails)
    -- One refusal may be a chance; the second flight within two minutes is a pace
    -- that is too high. A refused probe says nothing about the pace.
    if not probe and now - tonumber(g.throttled_at or '0') < 120000000 then
      put('ceiling', factor)
      put('factor', math.max(0.02, factor * 0.8))
    end
    if not probe then put('throttled_at', whole(now)) end
  end
  local pause = advice
  if pause == 0 then pause = math.min(5000000 * 2 ^ (fails - 1), 60000000) end
  return close(now + pause, 'throttled by the API')
end

if outcome == 'busy' then
  redis.call('HINCRBY', key, 'busy', 1)
  if not news then return stays() end
  put('fails', fails + 1)
  redis.call('HSET', key, 'width', math.max(1, math.floor(flight / 2)), 'width_from', math.max(flight, tonumber(g.width_from or '1')))
  return close(now + math.min(1000000 * 2 ^ fails, 60000000) + advice, 'the model has no capacity')
end

if outcome == 'quota' then
  -- The day is that of the call: an answer may come after midnight. Early in a day the
  -- API may not have turned the page yet.
  local day = 86400000000
  local until_ = (math.floor(granted / day) + 1) * day
  if now % day < 900000000 and until_ - now > 900000000 or until_ <= now then until_ = now + 300000000 end
  return close(until_ + advice, 'the free daily allocation is spent until 00:00 UTC')
end

if outcome == 'refused' then
  if not news then return stays() end
  if not g.auth then
    put('auth', 1)
    return close(now + 2000000, 'the account was refused: one confirming call follows')
  end
  redis.call('HSET', key, 'hold', whole(now), 'why', 'the account is refused', 'shut', whole(now))
  return {60000000, g.hold and 0 or 1, 'the account is refused'}
end
return stays()
