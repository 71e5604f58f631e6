-- Removes a dead owner and counts one crash, unless the task only waited.
--
-- KEYS: record
-- ARGV: dead owner
-- Reply: crashes, or 0 when none was counted
local had = redis.call("HMGET", KEYS[1], "holder", "idle")
if had[1] ~= ARGV[1] then return 0 end
redis.call("HDEL", KEYS[1], "holder", "idle")
if had[2] then return 0 end
local n = (tonumber(redis.call("HGET", KEYS[1], "crashes") or 0) or 0) + 1
redis.call("HSET", KEYS[1], "crashes", n)
return n
