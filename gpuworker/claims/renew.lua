-- Say again who has what: the host knows from its attempt directories, and Redis may have been emptied since.
--
-- KEYS  1 claims, a hash: device UUID -> its holders, with "|" between them (acquire.lua)
-- ARGV  1 ms after which a holder that the host does not name is left over
--       2... fours: device UUID, attempt key, fence, MiB where it shares, else 0
-- Answer  pairs (device UUID, attempt key that holds it instead) of those that could not be said: must be empty
--
-- Key model: acquire.lua. A claim of somebody else is never overwritten. One that the host does not name is dropped, but
-- not before its age says that it is not being made right now: an agent died between its claim and its directory.
local now = redis.call("TIME")
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)

local said, uuids = {}, {} -- uuid -> list of { key, holder, shares }; of all that is said or stored
for i = 2, #ARGV, 4 do
    local uuid, key, mib = ARGV[i], ARGV[i + 1], ARGV[i + 3]
    local holder = key .. " " .. ARGV[i + 2] .. " " .. now_ms .. (mib ~= "0" and " " .. mib or "")
    said[uuid] = said[uuid] or {}
    table.insert(said[uuid], { key = key, holder = holder, shares = mib ~= "0" })
    uuids[uuid] = true
end

local stored = {}
local all = redis.call("HGETALL", KEYS[1])
for i = 1, #all, 2 do
    stored[all[i]] = {}
    uuids[all[i]] = true
    for holder in string.gmatch(all[i + 1], "[^|]+") do
        local key, at_ms, mib = string.match(holder, "^(%S+) %d+ (%d+) ?(%d*)$")
        table.insert(stored[all[i]], { key = key or holder, holder = holder, at_ms = tonumber(at_ms), shares = mib ~= nil and mib ~= "" })
    end
end

local function find(list, key)
    for _, one in ipairs(list or {}) do
        if one.key == key then
            return one
        end
    end
end

local conflicts = {}
for uuid in pairs(uuids) do
    local stay = {}
    for _, one in ipairs(stored[uuid] or {}) do
        local again = find(said[uuid], one.key)
        if again then
            stay[#stay + 1] = again
        elseif one.at_ms and one.at_ms >= now_ms - tonumber(ARGV[1]) then
            stay[#stay + 1] = one
        end
    end
    for _, one in ipairs(said[uuid] or {}) do
        if not find(stay, one.key) then
            local other
            for _, there in ipairs(stay) do
                if not (one.shares and there.shares) then
                    other = there.key
                end
            end
            if other then
                conflicts[#conflicts + 1] = uuid
                conflicts[#conflicts + 1] = other
            else
                stay[#stay + 1] = one
            end
        end
    end
    local holders = {}
    for _, one in ipairs(stay) do
        holders[#holders + 1] = one.holder
    end
    if #holders > 0 then
        redis.call("HSET", KEYS[1], uuid, table.concat(holders, "|"))
    else
        redis.call("HDEL", KEYS[1], uuid)
    end
end
return conflicts
