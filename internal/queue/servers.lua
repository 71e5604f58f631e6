-- Returns the heartbeats of all servers that live.
--
-- KEYS     asynq's sorted set of servers by the time at which their heartbeat expires
-- ARGV     now (Unix seconds)
-- reply    the heartbeats, each a ServerInfo of asynq

local reply = {}
for _, key in ipairs(redis.call("ZRANGEBYSCORE", KEYS[1], ARGV[1], "+inf")) do
  local info = redis.call("GET", key)
  if info then reply[#reply + 1] = info end
end
return reply
