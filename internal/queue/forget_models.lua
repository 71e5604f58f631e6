-- Deletes the set of models of a queue without tasks.
--
-- KEYS[1]    set of the queue's models
-- KEYS[2..]  everything that may hold a task of the queue
-- reply      1 when the set was deleted, else 0

for i = 2, #KEYS do
  if redis.call("EXISTS", KEYS[i]) == 1 then return 0 end
end
return redis.call("DEL", KEYS[1])
