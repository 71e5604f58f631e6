-- Counts an attempt that failed before it sent a call.
--
-- KEYS: record
-- ARGV: expiry (Unix seconds)
-- Reply: attempts
local n = (tonumber(redis.call("HGET", KEYS[1], "attempts") or 0) or 0) + 1
redis.call("HSET", KEYS[1], "attempts", n)
redis.call("EXPIREAT", KEYS[1], ARGV[1])
return n
