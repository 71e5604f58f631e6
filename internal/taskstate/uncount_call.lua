-- Restores the values from before a call that was not sent.
--
-- KEYS: record
-- ARGV: owner, calls, attempts
-- Reply: 1
if redis.call("HGET", KEYS[1], "holder") == ARGV[1] then
  redis.call("HSET", KEYS[1], "calls", ARGV[2], "attempts", ARGV[3])
end
return 1
