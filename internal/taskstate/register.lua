-- Writes a claim again after Redis has lost its memory. A claim that another process made in
-- the present memory is newer and stays. A task that has ended needs none.
--
-- KEYS: record
-- ARGV: owner, name of Redis' memory, expiry (Unix seconds), 1 if the task only waits for a permit
-- Reply: 1, or 0 when another process has taken the task over, or it has ended
local had = redis.call("HMGET", KEYS[1], "holder", "memory", "ended")
if had[3] then return 0 end
if had[1] and had[1] ~= ARGV[1] and (had[2] or "") == ARGV[2] then return 0 end
redis.call("HSET", KEYS[1], "holder", ARGV[1], "memory", ARGV[2])
if ARGV[4] == "1" then redis.call("HSET", KEYS[1], "idle", 1) end
redis.call("EXPIREAT", KEYS[1], ARGV[3])
return 1
