-- Notes the data set that the holder of a job is going to write.
-- KEYS: 1 job (hash)  2 drafts (hash)   ARGV: 1 fence  2 job id  3 data set id
-- Answers {"ok"} | {"fenced"}
if redis.call("HGET", KEYS[1], "fence") ~= ARGV[1] then return {"fenced"} end
if not fits(KEYS[2], "hash") then return damaged() end
redis.call("HSET", KEYS[1], "draft", ARGV[3])
redis.call("HSET", KEYS[2], ARGV[3], ARGV[2])
return {"ok"}
