-- Raises the lease counter of a job that is still its caller's.
-- KEYS: 1 job (hash)   ARGV: 1 fence
-- Answers 1, or 0 if the job has passed on.
if redis.call("HGET", KEYS[1], "fence") ~= ARGV[1] then return 0 end
redis.call("HINCRBY", KEYS[1], "lease", 1)
return 1
