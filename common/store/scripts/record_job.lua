-- A holder's note on its job: progress, an epoch's metrics, an event. Refused once the fence has passed on.
-- KEYS: 1 job (hash)  2 job events (stream)  3 job metrics (hash)
-- ARGV: 1 fence  2 token  3 now  4 event kind, or ""  5 event data (JSON)  6 epoch, or ""  7 metrics of the epoch (JSON)
--       8 job id  9 channel of changes  10... field, value pairs to set
-- Answers {"ok", what the holder was asked for, or ""} | {"fenced"}
if redis.call("HGET", KEYS[1], "fence") ~= ARGV[1] then return {"fenced"} end
local state = redis.call("HGET", KEYS[1], "state")
if state ~= "starting" and state ~= "running" then return {"fenced"} end
if redis.call("HGET", KEYS[1], "token") ~= ARGV[2] then
  if not are_whole(KEYS[1], "revision") then return damaged() end
  redis.call("HSET", KEYS[1], "token", ARGV[2])
  for i = 10, #ARGV, 2 do redis.call("HSET", KEYS[1], ARGV[i], ARGV[i + 1]) end
  if ARGV[4] ~= "" then tell(KEYS[2], ARGV[4], ARGV[3], ARGV[5]) end
  if ARGV[6] ~= "" then redis.pcall("HSET", KEYS[3], ARGV[6], ARGV[7]) end
  redis.call("HINCRBY", KEYS[1], "revision", 1)
  redis.call("PUBLISH", ARGV[9], ARGV[8])
end
return {"ok", redis.call("HGET", KEYS[1], "wish") or ""}
