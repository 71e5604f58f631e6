-- Marks a task whose owner only waits for a permit. The next call and the next claim remove
-- the mark.
--
-- KEYS: record
-- ARGV: owner, calls
-- Reply: 1
local had = redis.call("HMGET", KEYS[1], "holder", "calls")
if had[1] == ARGV[1] and (had[2] or "0") == ARGV[2] then redis.call("HSET", KEYS[1], "idle", 1) end
return 1
