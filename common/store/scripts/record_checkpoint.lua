-- Points to a checkpoint that is whole on its disk; from here on a lost run is resumed from it.
-- KEYS: 1 job (hash)  2 job events (stream)  3 job checkpoints (list)
-- ARGV: 1 job id  2 fence  3 token  4 now  5 event data (JSON)  6 checkpoint (JSON)  7 how many to keep
--       8 channel of changes
-- Answers {"ok"} | {"fenced"}
if redis.call("HGET", KEYS[1], "fence") ~= ARGV[2] then return {"fenced"} end
local state = redis.call("HGET", KEYS[1], "state")
if state ~= "starting" and state ~= "running" then return {"fenced"} end
if redis.call("HGET", KEYS[1], "token") == ARGV[3] then return {"ok"} end
if not (are_whole(KEYS[1], "revision") and fits(KEYS[3], "list")) then return damaged() end
redis.call("HSET", KEYS[1], "token", ARGV[3], "losses", 0)
redis.call("LPUSH", KEYS[3], ARGV[6])
redis.call("LTRIM", KEYS[3], 0, tonumber(ARGV[7]) - 1)
tell(KEYS[2], "checkpoint", ARGV[4], ARGV[5])
redis.call("HINCRBY", KEYS[1], "revision", 1)
redis.call("PUBLISH", ARGV[8], ARGV[1])
return {"ok"}
