-- Lets an alias point to nothing; its history stays.
-- KEYS: 1 aliases of the name (hash)
-- ARGV: 1 alias  2 prefix of histories  3 now  4 most entries of a history  5 the model that it must point to, or ""
-- Answers 1, or 0 if it pointed to nothing, or to another model.
local before = redis.call("HGET", KEYS[1], ARGV[1])
if not before or before == "" or (ARGV[5] ~= "" and before ~= ARGV[5]) then return 0 end
point(KEYS[1], ARGV[2], ARGV[1], "", "", ARGV[3], tonumber(ARGV[4]))
return 1
