-- Tells which keys of a queue exist.
--
-- KEYS     keys of one queue
-- reply    a digit for each key: 1 when it exists, else 0

local digits = {}
for i = 1, #KEYS do digits[i] = redis.call("EXISTS", KEYS[i]) end
return table.concat(digits)
