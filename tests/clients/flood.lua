-- For wrk: made-up keys, half of them with a right checksum, each request from an address in X-Forwarded-For.
-- Arguments: requests in all, threads, addresses to choose from (0: every request from a new one).

local bit = require("bit")
local digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

local crc_of = {}
for byte = 0, 255 do
  local crc = byte
  for _ = 1, 8 do
    crc = bit.bxor(bit.rshift(crc, 1), bit.band(crc, 1) == 1 and 0xEDB88320 or 0)
  end
  crc_of[byte] = crc
end

local function checksum(text)
  local crc = -1
  for at = 1, #text do
    crc = bit.bxor(bit.rshift(crc, 8), crc_of[bit.band(bit.bxor(crc, text:byte(at)), 255)])
  end
  local rest, check = bit.bnot(crc) % 2 ^ 32, ""
  for _ = 1, 6 do
    local digit = rest % 62
    check = digits:sub(digit + 1, digit + 1) .. check
    rest = (rest - digit) / 62
  end
  return check
end

local threads = 0
function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

local share, several, addresses
local asked, answered = 0, 0
function init(arguments)
  share = tonumber(arguments[1]) / tonumber(arguments[2])
  several = tonumber(arguments[2])
  addresses = tonumber(arguments[3])
  math.randomseed(id + 1)
end

-- Half of the addresses are IPv4, half are IPv6 networks of one customer each.
local function address()
  local number = addresses > 0 and math.random(0, addresses - 1) or asked * several + id
  local high, low = math.floor(number / 65536), number % 65536
  if number % 2 == 0 then
    return string.format("10.%d.%d.%d", high % 256, math.floor(low / 256), low % 256)
  end
  return string.format("2001:db8:%x:%x::%x", high, low, math.random(1, 65535))
end

function request()
  asked = asked + 1
  local letters = {}
  for at = 1, 43 do
    local digit = math.random(62)
    letters[at] = digits:sub(digit, digit)
  end
  local random = table.concat(letters)
  local check = checksum(random)
  if math.random(2) == 1 then
    check = (check:sub(1, 1) == "0" and "1" or "0") .. check:sub(2)
  end
  return wrk.format("GET", "/auth/me", { ["X-API-Key"] = "r3mes_" .. random .. check, ["X-Forwarded-For"] = address() })
end

function response()
  answered = answered + 1
  if answered >= share then
    wrk.thread:stop()
  end
end
