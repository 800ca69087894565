-- Asks the holder of a job to cancel it.
-- KEYS: 1 job (hash)   ARGV: 1 states in which that can be asked, comma separated
-- Answers {"ok"} | {"missing"} | {"state", current}
local state = redis.call("HGET", KEYS[1], "state")
if not state then return {"missing"} end
if not string.find("," .. ARGV[1] .. ",", "," .. state .. ",", 1, true) then return {"state", state} end
if redis.call("HSETNX", KEYS[1], "cancel", 1) == 1 then redis.call("HINCRBY", KEYS[1], "revision", 1) end
return {"ok"}
