-- Releases a task that returns to the queue, and writes its counters. It writes whole values,
-- so a write that the client repeats does no harm. A missing record is not created, and a
-- record with another owner is left alone.
--
-- KEYS: record
-- ARGV: owner, then fields and values
-- Reply: 1, or 0 when there is no record
if redis.call("EXISTS", KEYS[1]) == 0 then return 0 end
if redis.call("HGET", KEYS[1], "holder") == ARGV[1] then
  if #ARGV > 1 then redis.call("HSET", KEYS[1], unpack(ARGV, 2)) end
  redis.call("HDEL", KEYS[1], "holder", "memory", "idle")
end
return 1
