-- Removes an owner that does not run the task any more. A dead owner counts one crash, unless
-- the task only waited. A living one is removed without a crash, if it made its claim in a
-- memory of Redis that is lost.
--
-- KEYS: record
-- ARGV: owner, name of the lost memory in which a living owner claimed the task; "" for a dead one
-- Reply: crashes, or 0 when none was counted
local had = redis.call("HMGET", KEYS[1], "holder", "idle", "memory")
if had[1] ~= ARGV[1] or ARGV[2] ~= "" and had[3] ~= ARGV[2] then return 0 end
redis.call("HDEL", KEYS[1], "holder", "memory", "idle")
if had[2] or ARGV[2] ~= "" then return 0 end
local n = (tonumber(redis.call("HGET", KEYS[1], "crashes") or 0) or 0) + 1
redis.call("HSET", KEYS[1], "crashes", n)
return n
