-- Writes why a task is retried.
--
-- KEYS: record
-- ARGV: last wait and last answer (empty keeps the old value), Unix time, expiry (Unix seconds)
-- Reply: 1 once, when the retries have lasted for a minute and must be logged
local had = redis.call("HMGET", KEYS[1], "ended", "since", "told")
if had[1] then return 0 end
if ARGV[1] ~= "" then redis.call("HSET", KEYS[1], "waits", ARGV[1]) end
if ARGV[2] ~= "" then redis.call("HSET", KEYS[1], "last", ARGV[2]) end
if not had[2] then
  redis.call("HSET", KEYS[1], "since", ARGV[3])
  redis.call("EXPIREAT", KEYS[1], ARGV[4])
elseif not had[3] and ARGV[3] - had[2] >= 60 then
  redis.call("HSET", KEYS[1], "told", 1)
  return 1
end
return 0
