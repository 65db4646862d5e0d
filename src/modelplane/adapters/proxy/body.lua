-- Reads named values from a JSON body: fields of the top level, and tensors of the Open Inference
-- Protocol that hold one value.
--
-- The first half of the script of `script.py`; `users.lua` calls `read_body`. Strict about what it
-- reads; what lies deeper it steps over by brackets and strings. Bounded in size, depth and steps,
-- because a worker of Envoy stands still meanwhile. A reader is {text, pos, steps, nearest}; what
-- cannot be read is an error(), which `users.lua` catches.

local BODY_MAX_BYTES = 1048576
local TEXT_MAX_BYTES = 4096
local STEPS_MAX = 20000
local DEPTH_MAX = 64

local find, sub, byte, char, floor = string.find, string.sub, string.byte, string.char, math.floor

local function fault()
  error("unreadable", 0)
end

local function step(reader)
  reader.steps = reader.steps + 1
  if reader.steps > STEPS_MAX then
    fault()
  end
end

-- Return the next character that is not white space, and stand on it.
local function peek(reader)
  reader.pos = find(reader.text, "[^ \t\r\n]", reader.pos) or #reader.text + 1
  return sub(reader.text, reader.pos, reader.pos)
end

local function expect(reader, character)
  if peek(reader) ~= character then
    fault()
  end
  reader.pos = reader.pos + 1
end

-- Return where a character stands next. What was found is kept, so that looking for all of them
-- costs one pass over the text each, at the speed of a plain search.
local function next_of(reader, character)
  local at = reader.nearest[character]
  if not at or at < reader.pos then
    at = find(reader.text, character, reader.pos, true) or math.huge
    reader.nearest[character] = at
  end
  return at
end

-- Step over a string; return where its content begins and ends, and whether it has escapes.
local function skip_string(reader)
  expect(reader, '"')
  local start, escaped = reader.pos, false
  while true do
    step(reader)
    local quote = next_of(reader, '"')
    local slash = next_of(reader, "\\")
    if slash < quote then
      escaped = true
      reader.pos = slash + 2
    elseif quote == math.huge then
      fault()
    else
      reader.pos = quote + 1
      return start, quote - 1, escaped
    end
  end
end

local function utf8_of(code)
  if code < 0x80 then
    return char(code)
  elseif code < 0x800 then
    return char(0xC0 + floor(code / 0x40), 0x80 + code % 0x40)
  end
  local last, middle = 0x80 + code % 0x40, 0x80 + floor(code / 0x40) % 0x40
  if code < 0x10000 then
    return char(0xE0 + floor(code / 0x1000), middle, last)
  end
  return char(0xF0 + floor(code / 0x40000), 0x80 + floor(code / 0x1000) % 0x40, middle, last)
end

-- Return the character of \uXXXX at `at` (both halves of a pair), and the position after it.
local function unicode_escape(text, at)
  local high = tonumber(string.match(text, "^\\u(%x%x%x%x)", at) or fault(), 16)
  if high < 0xD800 or high > 0xDFFF then
    return utf8_of(high), at + 6
  end
  local low = tonumber(string.match(text, "^\\u(%x%x%x%x)", at + 6) or "0", 16)
  if high > 0xDBFF or low < 0xDC00 or low > 0xDFFF then
    fault() -- half a pair is no character
  end
  return utf8_of(0x10000 + (high - 0xD800) * 0x400 + (low - 0xDC00)), at + 12
end

local ESCAPES = {
  ['"'] = '"', ["\\"] = "\\", ["/"] = "/",
  b = "\b", f = "\f", n = "\n", r = "\r", t = "\t",
}

local function unescape(text)
  local parts, pos = {}, 1
  while true do
    local at = find(text, "\\", pos, true)
    if not at then
      parts[#parts + 1] = sub(text, pos)
      return table.concat(parts)
    end
    parts[#parts + 1] = sub(text, pos, at - 1)
    local letter = sub(text, at + 1, at + 1)
    if letter == "u" then
      parts[#parts + 1], pos = unicode_escape(text, at)
    else
      parts[#parts + 1], pos = ESCAPES[letter] or fault(), at + 2
    end
  end
end

-- Return the length of the character at `pos`; nil when it is none. The second byte's bounds
-- exclude overlong forms, halves of pairs and what lies above U+10FFFF.
local function utf8_length(text, pos)
  local first, second = byte(text, pos, pos + 1)
  local length, low, high
  if first >= 0xC2 and first <= 0xDF then
    length, low, high = 2, 0x80, 0xBF
  elseif first >= 0xE0 and first <= 0xEF then
    length = 3
    low, high = first == 0xE0 and 0xA0 or 0x80, first == 0xED and 0x9F or 0xBF
  elseif first >= 0xF0 and first <= 0xF4 then
    length = 4
    low, high = first == 0xF0 and 0x90 or 0x80, first == 0xF4 and 0x8F or 0xBF
  end
  if not length or not second or second < low or second > high then
    return nil
  end
  local rest = sub(text, pos + 2, pos + length - 1)
  return #rest == length - 2 and not find(rest, "[^\128-\191]") and length or nil
end

local function is_utf8(text)
  local pos = find(text, "[\128-\255]")
  while pos do
    local length = utf8_length(text, pos)
    if not length then
      return false
    end
    pos = find(text, "[\128-\255]", pos + length)
  end
  return true
end

-- Return a string; nil for one that is too long, or that Envoy would cut at a zero byte.
local function read_string(reader)
  local start, finish, escaped = skip_string(reader)
  if finish - start >= TEXT_MAX_BYTES then
    return nil
  end
  local text = sub(reader.text, start, finish)
  if find(text, "[%z\1-\31]") then
    fault()
  end
  if escaped then
    text = unescape(text)
  end
  if not is_utf8(text) then
    fault()
  end
  return not find(text, "%z") and text or nil
end

-- Return a number; nil for one that is no double.
local function read_number(reader)
  local text, start = reader.text, reader.pos
  local _, whole = find(text, "^%-?%d+", start)
  if not whole or find(text, "^%-?0%d", start) then
    fault()
  end
  local _, fraction = find(text, "^%.%d+", whole + 1)
  local _, exponent = find(text, "^[eE][+-]?%d+", (fraction or whole) + 1)
  local finish = exponent or fraction or whole
  reader.pos = finish + 1
  local number = tonumber(sub(text, start, finish))
  return number and number > -math.huge and number < math.huge and number or nil
end

local WORDS = { t = "true", f = "false", n = "null" }

local function read_word(reader, first)
  local word = WORDS[first]
  if not word or sub(reader.text, reader.pos, reader.pos + #word - 1) ~= word then
    fault()
  end
  reader.pos = reader.pos + #word
  if first == "n" then
    return nil
  end
  return first == "t"
end

-- Return a string, number or truth; nil for null and for what has no use.
local function read_scalar(reader)
  step(reader)
  local first = peek(reader)
  if first == '"' then
    return read_string(reader)
  elseif find(first, "^[%d%-]") then
    return read_number(reader)
  end
  return read_word(reader, first)
end

local CLOSING = { ["{"] = "}", ["["] = "]" }
local STRUCTURE = { '"', "[", "]", "{", "}" }

-- Step over an object or array by its brackets and strings, without reading what is between.
-- `depth` arrays around the position are open already.
local function skip_container(reader, depth)
  local closing = {}
  for level = 1, depth do
    closing[level] = "]"
  end
  repeat
    step(reader)
    local at, found = math.huge, nil
    for _, character in ipairs(STRUCTURE) do
      local there = next_of(reader, character)
      if there < at then
        at, found = there, character
      end
    end
    if not found then
      fault()
    end
    reader.pos = at
    if found == '"' then
      skip_string(reader)
    else
      reader.pos = at + 1
      if CLOSING[found] then
        depth = depth + 1
        closing[depth] = CLOSING[found]
        if depth > DEPTH_MAX then
          fault()
        end
      elseif found ~= closing[depth] then
        fault()
      else
        depth = depth - 1
      end
    end
  until depth == 0
end

-- Step over any value; return it when it is a string, number or truth.
local function read_value(reader)
  local first = peek(reader)
  if first == "{" or first == "[" then
    skip_container(reader, 0)
    return nil
  end
  return read_scalar(reader)
end

-- Call `read_item` for each item between the brackets; it reads the item.
local function read_list(reader, opening, closing, read_item)
  expect(reader, opening)
  if peek(reader) == closing then
    reader.pos = reader.pos + 1
    return
  end
  repeat
    read_item()
    local after = peek(reader)
    reader.pos = reader.pos + 1
    if after ~= "," and after ~= closing then
      fault()
    end
  until after == closing
end

-- Call `read(key)` for each member of an object; it reads the member's value.
local function read_object(reader, read)
  read_list(reader, "{", "}", function()
    local key = read_string(reader)
    expect(reader, ":")
    read(key)
  end)
end

-- Return a tensor's data when it is one value, however deep in arrays; else step over it.
local function read_single(reader)
  local depth, value = 0, nil
  while depth < DEPTH_MAX and peek(reader) == "[" do
    reader.pos, depth = reader.pos + 1, depth + 1
  end
  if depth == 0 then
    read_value(reader)
    return nil
  end
  if find(peek(reader), '^["%d%-tf]') then
    value = read_scalar(reader)
    while depth > 0 and peek(reader) == "]" do
      reader.pos, depth = reader.pos + 1, depth - 1
    end
    if depth == 0 then
      return value
    end
  end
  skip_container(reader, depth)
  return nil
end

-- Note a named value; a name that stands twice is not given.
local function note(values, seen, name, value)
  if name == nil then
    return
  end
  if seen[name] then
    value = nil
  end
  values[name], seen[name] = value, true
end

-- Note the tensors of [{"name": ..., "data": [...]}, ...].
local function read_tensors(reader, values, seen)
  read_list(reader, "[", "]", function()
    if peek(reader) ~= "{" then
      read_value(reader)
      return
    end
    local tensor, members = {}, {}
    read_object(reader, function(key)
      if key == "data" then
        note(tensor, members, key, read_single(reader))
      else
        note(tensor, members, key, read_value(reader))
      end
    end)
    note(values, seen, tensor.name, tensor.data)
  end)
end

-- Return all values that a body names. Tensors count where fields have the same names.
local function read_body(text)
  local reader = { text = text, pos = 1, steps = 0, nearest = {} }
  local values, fields, tensors = {}, {}, {}
  read_object(reader, function(key)
    if key == "inputs" and peek(reader) == "[" then
      read_tensors(reader, values, tensors)
    else
      local value = read_value(reader)
      if key ~= nil and not tensors[key] then
        note(values, fields, key, value)
      end
    end
  end)
  if peek(reader) ~= "" then
    fault()
  end
  return values
end
