-- Appends events to the stream of a task, numbers them and publishes them. Nothing is added
-- after the event "done".
--
-- KEYS: stream
-- ARGV: task, channel, most entries, milliseconds to live, 1 to add only to an empty stream,
--       then type and JSON of each event
-- reply: number of the last event in the stream
local last = redis.call("XREVRANGE", KEYS[1], "+", "-", "COUNT", 1)[1]
local n, ended = 0, false
if last then
  n = tonumber(string.match(last[1], "%-(%d+)$"))
  for i = 1, #last[2], 2 do
    if last[2][i] == "type" and last[2][i + 1] == "done" then ended = true end
  end
  if ARGV[5] == "1" then return n end
end
for i = 6, #ARGV, 2 do
  if ended then break end
  n = n + 1
  redis.call("XADD", KEYS[1], "MAXLEN", ARGV[3], "0-" .. n, "type", ARGV[i], "data", ARGV[i + 1])
  redis.call("PUBLISH", ARGV[2], ARGV[1] .. " " .. n .. " " .. ARGV[i + 1])
  ended = ARGV[i] == "done"
end
redis.call("PEXPIRE", KEYS[1], ARGV[4])
return n
