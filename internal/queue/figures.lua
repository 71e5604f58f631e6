-- Counts the tasks of queues, and finds the oldest that waits in each. It reads a bounded
-- part of each queue, whatever the number of tasks.
--
-- KEYS     for each queue: pending, active, scheduled, retry, archived, set of models
-- ARGV     for each queue: prefix of the tasks' keys, prefix of the lists of deferred tasks
-- reply    for each queue a list: pending, active, scheduled, retry, archived,
--          acceptance of the first pending task (microseconds, 0 when unknown), then for
--          each model: its name, deferred tasks, acceptance of the first of them

local reply = {}
for q = 0, #KEYS / 6 - 1 do
  local k, tasks, deferred = q * 6, ARGV[q * 2 + 1], ARGV[q * 2 + 2]
  local row = {
    redis.call("LLEN", KEYS[k + 1]), redis.call("LLEN", KEYS[k + 2]),
    redis.call("ZCARD", KEYS[k + 3]), redis.call("ZCARD", KEYS[k + 4]), redis.call("ZCARD", KEYS[k + 5]),
  }
  local first, oldest = redis.call("LINDEX", KEYS[k + 1], -1), "0"
  if first then
    oldest = string.match(redis.call("HGET", tasks .. first, "turn") or "", "^(%d+) ") or "0"
  end
  row[6] = oldest
  for _, model in ipairs(redis.call("SMEMBERS", KEYS[k + 6])) do
    local head = redis.call("ZRANGE", deferred .. model, 0, 0, "WITHSCORES")
    row[#row + 1] = model
    row[#row + 1] = redis.call("ZCARD", deferred .. model)
    row[#row + 1] = head[2] or "0"
  end
  reply[#reply + 1] = row
end
return reply
