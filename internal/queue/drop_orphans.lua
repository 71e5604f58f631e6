-- Removes deferred tasks that are gone or pending from the list of their model.
--
-- KEYS[1]  deferred tasks of the model
-- ARGV     prefix of the tasks' keys, then ids
-- reply    the number of removed entries

local dropped = 0
for i = 2, #ARGV do
  local state = redis.call("HGET", ARGV[1] .. ARGV[i], "state")
  if not state or state == "pending" then dropped = dropped + redis.call("ZREM", KEYS[1], ARGV[i]) end
end
return dropped
