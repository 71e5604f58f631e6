-- Adds retries that are due after their deadline to the deferred tasks of their model.
--
-- KEYS     retries, deferred tasks of the model
-- ARGV     for each task: id, time of acceptance (us), deadline (s)
-- reply    the number of added tasks

local added = 0
for i = 1, #ARGV, 3 do
  local score = redis.call("ZSCORE", KEYS[1], ARGV[i])
  if score and tonumber(score) > tonumber(ARGV[i + 2]) then added = added + redis.call("ZADD", KEYS[2], "NX", ARGV[i + 1], ARGV[i]) end
end
return added
