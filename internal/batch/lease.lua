-- Acquires or renews the lease of a batch.
-- KEYS: the lease; the progress hash of the batch.
-- ARGV: owner; milliseconds to live.
-- Reply: 1 if the owner has the lease, else 0; 1 if a cancellation was requested, else 0.
local owner = redis.call("GET", KEYS[1])
local mine = 0
if not owner or owner == ARGV[1] then
  redis.call("SET", KEYS[1], ARGV[1], "PX", ARGV[2])
  mine = 1
end
return {mine, redis.call("HEXISTS", KEYS[2], "cancel")}
