-- Give back what one attempt key holds. The caller has the evidence: its tree is empty, or it never started.
--
-- KEYS  1 claims, a hash: device UUID -> "<attempt key> <fence> <unix ms of the last renewal>"
-- ARGV  1 attempt key
-- Answer  the UUIDs that were given back; none where it held none (a repeated release)
--
-- Key model: acquire.lua. Only fields whose value names this attempt key go: a device that another has taken since stays.
local freed = {}
local all = redis.call("HGETALL", KEYS[1])
for i = 1, #all, 2 do
    if string.match(all[i + 1], "^(%S+)") == ARGV[1] then
        redis.call("HDEL", KEYS[1], all[i])
        freed[#freed + 1] = all[i]
    end
end
return freed
