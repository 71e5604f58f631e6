-- Reports whether a task that has a message is also in a list of its queue. If not, it
-- removes the message.
--
-- KEYS[1]     task: a hash
-- KEYS[2..3]  lists of active and pending tasks
-- KEYS[4..]   sorted sets that may hold the task
-- ARGV        id, longest list to search
-- reply       1 when the task is in a list or a list is too long, else 0

if redis.call("EXISTS", KEYS[1]) == 0 then return 0 end
for i = 4, #KEYS do
  if redis.call("ZSCORE", KEYS[i], ARGV[1]) then return 1 end
end
for i = 2, 3 do
  if redis.call("LPOS", KEYS[i], ARGV[1], "MAXLEN", ARGV[2]) then return 1 end
  if redis.call("LLEN", KEYS[i]) > tonumber(ARGV[2]) then return 1 end
end
redis.call("DEL", KEYS[1])
return 0
