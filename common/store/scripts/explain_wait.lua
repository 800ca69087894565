-- Says why a queued job does not start, once for each reason.
-- KEYS: 1 job (hash)  2 job events (stream)
-- ARGV: 1 reason  2 now  3 event data (JSON)  4 job id  5 channel of changes
-- Answers {"ok"} | {"known"} | {"state", current}
local state = redis.call("HGET", KEYS[1], "state")
if state ~= "queued" then return {"state", state or ""} end
if redis.call("HGET", KEYS[1], "waiting_for") == ARGV[1] then return {"known"} end
if not are_whole(KEYS[1], "revision") then return damaged() end
redis.call("HSET", KEYS[1], "waiting_for", ARGV[1])
tell(KEYS[2], "warning", ARGV[2], ARGV[3])
redis.call("HINCRBY", KEYS[1], "revision", 1)
redis.call("PUBLISH", ARGV[5], ARGV[4])
return {"ok"}
