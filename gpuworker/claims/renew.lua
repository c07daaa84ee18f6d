-- Say again who has what: the host knows from its attempt directories, and Redis may have been emptied since.
--
-- KEYS  1 claims, a hash: device UUID -> "<attempt key> <fence> <unix ms of the last renewal>"
-- ARGV  1 ms after which a claim that the host does not name is left over   2... triples: device UUID, attempt key, fence
-- Answer  pairs (device UUID, attempt key that holds it instead) of those that could not be said: must be empty
--
-- Key model: acquire.lua. A claim of somebody else is never overwritten. One that the host does not name is dropped, but
-- not before its age says that it is not being made right now: an agent died between its claim and its directory.
local now = redis.call("TIME")
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local named, conflicts = {}, {}
for i = 2, #ARGV, 3 do
    local uuid, key = ARGV[i], ARGV[i + 1]
    local holder = redis.call("HGET", KEYS[1], uuid)
    local other = holder and string.match(holder, "^(%S+)")
    named[uuid] = true
    if other and other ~= key then
        conflicts[#conflicts + 1] = uuid
        conflicts[#conflicts + 1] = other
    else
        redis.call("HSET", KEYS[1], uuid, key .. " " .. ARGV[i + 2] .. " " .. now_ms)
    end
end

local all = redis.call("HGETALL", KEYS[1])
for i = 1, #all, 2 do
    local at_ms = tonumber(string.match(all[i + 1], "(%d+)$"))
    if not named[all[i]] and (not at_ms or at_ms < now_ms - tonumber(ARGV[1])) then
        redis.call("HDEL", KEYS[1], all[i])
    end
end
return conflicts
