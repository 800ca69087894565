-- Asks the holder of a job to cancel or to pause it, or takes back that it was asked to pause.
-- KEYS: 1 job (hash)
-- ARGV: 1 job id  2 states in which that can be asked, comma separated  3 "cancel", "pause", or "" to take a pause back
--       4 channel of changes
-- Answers {"ok"} | {"missing"} | {"state", current} | {"wish", what was asked for before}
local state = redis.call("HGET", KEYS[1], "state")
if not state then return {"missing"} end
if not string.find("," .. ARGV[2] .. ",", "," .. state .. ",", 1, true) then return {"state", state} end
local wish = redis.call("HGET", KEYS[1], "wish") or ""
if not are_whole(KEYS[1], "revision") then return damaged() end
if wish == ARGV[3] then
  if wish == "" then return {"state", state} end -- there is nothing to take back
  return {"ok"}
end
if wish == "cancel" then return {"wish", wish} end -- which nothing takes back
if ARGV[3] == "" then redis.call("HDEL", KEYS[1], "wish") else redis.call("HSET", KEYS[1], "wish", ARGV[3]) end
redis.call("HINCRBY", KEYS[1], "revision", 1)
redis.call("PUBLISH", ARGV[4], ARGV[1])
return {"ok"}
