-- Removes every trace of an ended job; its model stays.
-- KEYS: 1 job (hash)  2 jobs (zset)  3 job events (stream)  4 job metrics (hash)  5 prefix of jobs:state:*
--       6 prefix of jobs:label:*  7 job checkpoints (list)  8 jobs to archive (set)
--       9 job history (string)
-- ARGV: 1 job id  2 terminal states, comma separated  3 channel of changes
-- Answers {"ok"} | {"missing"} | {"state", current}
local state = redis.call("HGET", KEYS[1], "state")
if not state then return {"missing"} end
if not string.find("," .. ARGV[2] .. ",", "," .. state .. ",", 1, true) then return {"state", state} end
for key, value in pairs(cjson.decode(redis.call("HGET", KEYS[1], "labels"))) do
  redis.pcall("ZREM", KEYS[6] .. key .. ":" .. value, ARGV[1])
end
redis.pcall("ZREM", KEYS[2], ARGV[1])
redis.pcall("SREM", KEYS[8], ARGV[1])
redis.pcall("ZREM", KEYS[5] .. state, ARGV[1])
redis.call("DEL", KEYS[1], KEYS[3], KEYS[4], KEYS[7], KEYS[9])
redis.call("PUBLISH", ARGV[3], ARGV[1])
return {"ok"}
