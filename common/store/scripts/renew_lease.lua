-- Raises the lease counter of a job that is still its caller's.
-- KEYS: 1 job (hash)   ARGV: 1 fence
-- Answers 1, or 0 if the job has passed on.
if redis.call("HGET", KEYS[1], "fence") ~= ARGV[1] then return 0 end
if not are_whole(KEYS[1], "lease") then redis.call("HSET", KEYS[1], "lease", 0) end -- all that counts is its changing
redis.call("HINCRBY", KEYS[1], "lease", 1)
return 1
