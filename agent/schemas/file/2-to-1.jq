# What was written under the names of version 2 goes back into data.
reduce ("name", "path", "content") as $name (.; if .[$name] != null then .data[$name] = .[$name] else . end)
| if .path != null then .data.path = (.path | if test("^[A-Za-z]:/") then gsub("/"; "\\") else . end) else . end
| if .extension != null then .data.extension = (.extension | if . == "" then . else "." + . end) else . end
| .created_at = (.created // .created_at)
| .updated_at = (.updated // .updated_at)
| if .source.kind != null then
    .source_type = .source.kind
    | .source_id = (.source | if .id == null then null elif .scheme == null then .id else .scheme + ":" + .id end)
  else . end
| del(.extension, .name, .path, .content, .octets, .created, .updated, .source)
