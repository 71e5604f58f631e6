-- Removes a model from those of a queue, unless the model has deferred tasks.
--
-- KEYS     set of the queue's models, deferred tasks of the model
-- ARGV     model
-- reply    1 when the model was removed, else 0

if redis.call("EXISTS", KEYS[2]) == 1 then return 0 end
return redis.call("SREM", KEYS[1], ARGV[1])
