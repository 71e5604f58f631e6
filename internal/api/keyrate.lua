-- Counts a request of an API key over all servers (GCRA): it keeps the time at which the
-- key's allowance will be whole again.
--
-- KEYS   1 the record of the key
-- ARGV   1 microseconds between two requests, 2 how many requests may come at once
-- reply  0 if the request may run, otherwise how many microseconds until the next one may

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])

local whole = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
-- A clock that was set back must not lock a key out.
whole = math.min(whole, now + burst * interval)
local wait = whole + interval - burst * interval - now
if wait > 0 then return wait end
redis.call('SET', KEYS[1], string.format('%.0f', whole + interval), 'PX', math.ceil((whole + interval - now) / 1000))
return 0
