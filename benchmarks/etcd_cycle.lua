-- The nearest thing to checkout and checkin in etcd, through its JSON gateway:
-- a transaction that puts a key if it is not there yet, later its deletion.
--
-- An answer does not name its key, and wrk does not say on which connection it
-- came. So a key is deleted only after twice as many puts as there are connections
-- have been answered since: by then its own has been. Keys are base64 as they are:
-- any 12 digits decode to 9 bytes. Environment: CONNECTIONS, and FIRST,
-- the first key's number, so that no run meets the keys that an earlier one left.

local first, next_put, next_delete, backlog
put, deleted, refused = 0, 0, 0

local threads = {}

function setup(thread)
  threads[#threads + 1] = thread
end

local txn_head, delete_head

function init(args)
  next_put = tonumber(os.getenv("FIRST"))
  first = next_put + 1 -- wrk asks for one request that it does not send
  next_delete = first
  backlog = 2 * tonumber(os.getenv("CONNECTIONS"))
  local common = " HTTP/1.1\r\nHost: " .. wrk.host .. "\r\nContent-Type: application/json\r\n"
  txn_head = "POST /v3/kv/txn" .. common
  delete_head = "POST /v3/kv/deleterange" .. common
end

function request()
  local head, body
  if put - (next_delete - first) > backlog then
    head, body = delete_head, string.format('{"key":"%012d"}', next_delete)
    next_delete = next_delete + 1
  else
    local key = string.format("%012d", next_put)
    next_put = next_put + 1
    head = txn_head
    body = '{"compare":[{"key":"' .. key .. '","target":"VERSION","result":"EQUAL","version":"0"}],'
      .. '"success":[{"requestPut":{"key":"' .. key .. '","value":"d3JrLTE6YW5uOndzMTI="}}]}'
  end
  return head .. "Content-Length: " .. #body .. "\r\n\r\n" .. body
end

function response(status, headers, body)
  if status ~= 200 then
    refused = refused + 1
  elseif string.find(body, '"deleted":"1"', 1, true) then
    deleted = deleted + 1
  elseif string.find(body, '"succeeded":true', 1, true) then
    put = put + 1
  else
    refused = refused + 1
  end
end

function done(summary, latency, requests)
  local sums = { put = 0, deleted = 0, refused = 0 }
  for _, thread in ipairs(threads) do
    for name in pairs(sums) do sums[name] = sums[name] + thread:get(name) end
  end
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"begun":%d,"done":%d,"refused":%d,"errors":%d,"seconds":%.6f,"requests":%d,"p50_ms":%.4f,"p99_ms":%.4f}\n',
    sums.put, sums.deleted, sums.refused,
    errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, summary.requests,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
