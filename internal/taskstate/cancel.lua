-- Marks a task that has not ended as cancelled. It extends the record's expiry and never
-- shortens it.
--
-- KEYS: record
-- ARGV: seconds to live
-- Reply: 1, or 0 when the task has ended
if redis.call("HEXISTS", KEYS[1], "ended") == 1 then return 0 end
redis.call("HSET", KEYS[1], "cancelled", 1)
local ttl = redis.call("TTL", KEYS[1])
if ttl < tonumber(ARGV[1]) then redis.call("EXPIRE", KEYS[1], ARGV[1]) end
return 1
