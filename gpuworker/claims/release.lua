-- Give back what one attempt key holds. The caller has the evidence: its tree is empty, or it never started.
--
-- KEYS  1 claims, a hash: device UUID -> its holders, with "|" between them (acquire.lua)
-- ARGV  1 attempt key
-- Answer  the UUIDs that it held; none where it held none (a repeated release)
--
-- Key model: acquire.lua. Only this attempt key goes: who has taken a device since, or shares it, stays.
local freed = {}
local all = redis.call("HGETALL", KEYS[1])
for i = 1, #all, 2 do
    local stay, gone = {}, false
    for holder in string.gmatch(all[i + 1], "[^|]+") do
        if string.match(holder, "^(%S+)") == ARGV[1] then
            gone = true
        else
            stay[#stay + 1] = holder
        end
    end
    if gone then
        freed[#freed + 1] = all[i]
        if #stay > 0 then
            redis.call("HSET", KEYS[1], all[i], table.concat(stay, "|"))
        else
            redis.call("HDEL", KEYS[1], all[i])
        end
    end
end
return freed
