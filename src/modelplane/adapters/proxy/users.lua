-- What a request says about its user and its inputs, for the routing rules of its deployment.
--
-- Runs in Envoy for the deployments whose plans ask for it (`filters.py` gives each its context).
-- It copies a cookie into the header that is hashed, gives a cookie to who has none, notes which
-- slices the user is in, and reads the named inputs from the body. It never refuses a request and
-- never raises: what cannot be read is absent, and a predicate over what is absent is false. It
-- keeps nothing between requests and logs nothing.
--
-- Context: cookie (a name), slices (a list of {header, tags by value}), inputs (a list of names).

local USER_HEADER = "x-modelplane-user"
local INPUTS, USER = "mp", "mp_user" -- namespaces of metadata; clients name what is in the first
local USER_MAX_BYTES = 256
local COOKIE_AGE_S = 30 * 24 * 3600

local function cookie_of(headers, name)
  for index = 0, headers:getNumValues("cookie") - 1 do
    for part in string.gmatch(headers:getAtIndex("cookie", index), "[^;]+") do
      local key, value = string.match(part, "^%s*([^=%s]+)%s*=%s*(.-)%s*$")
      if key == name and value ~= "" and #value <= USER_MAX_BYTES then
        return value
      end
    end
  end
  return nil
end

local function name_user(handle, cookie)
  local headers = handle:headers()
  local user = cookie_of(headers, cookie)
  if not user then
    user = string.gsub(headers:get("x-request-id") or "", "[^%w%-_]", "")
    user = sub(user, 1, USER_MAX_BYTES)
    if user == "" then
      return
    end
    local secure = headers:get("x-forwarded-proto") == "https" and "; Secure" or ""
    handle:streamInfo():dynamicMetadata():set(USER, "cookie", string.format(
      "%s=%s; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax%s", cookie, user, COOKIE_AGE_S, secure
    ))
  end
  headers:replace(USER_HEADER, user)
end

local function note_slices(handle, slices)
  local headers, metadata = handle:headers(), handle:streamInfo():dynamicMetadata()
  for index, slice in ipairs(slices) do
    local tag = slice.tags[headers:get(slice.header) or ""]
    if tag then
      metadata:set(USER, "sliced", true)
      metadata:set(USER, "slice" .. index, tag)
    end
  end
end

local function read_inputs(handle, names)
  local body = handle:body()
  local length = body and body:length() or 0
  if length == 0 or length > BODY_MAX_BYTES then
    return
  end
  local values = read_body(body:getBytes(0, length))
  local metadata = handle:streamInfo():dynamicMetadata()
  for _, name in ipairs(names) do
    if values[name] ~= nil then
      metadata:set(INPUTS, name, values[name])
    end
  end
end

local function attempt(action, handle, setting)
  if setting then
    pcall(action, handle, setting)
  end
end

function envoy_on_request(handle)
  local context = handle:filterContext()
  attempt(name_user, handle, context:get("cookie"))
  attempt(note_slices, handle, context:get("slices"))
  attempt(read_inputs, handle, context:get("inputs"))
end

function envoy_on_response(handle)
  pcall(function()
    local user = handle:streamInfo():dynamicMetadata():get(USER)
    if user and user.cookie then
      handle:headers():add("set-cookie", user.cookie)
    end
  end)
end
