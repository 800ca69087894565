-- Keeps the history of an ended job in one compressed piece.
-- KEYS: 1 job (hash)  2 job events (stream)  3 job metrics (hash)  4 jobs to archive (set)  5 job history (string)
-- ARGV: 1 job id  2 history (compressed JSON)
if redis.call("SREM", KEYS[4], ARGV[1]) == 0 or redis.call("EXISTS", KEYS[1]) == 0 then return 0 end
redis.call("SET", KEYS[5], ARGV[2])
redis.call("DEL", KEYS[2], KEYS[3])
return 1
