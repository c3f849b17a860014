# exact
# What was written under the names of version 2 goes back into data; what was not is as the record has it.
def source: {kind: .source_type}
  + if .source_id == null then {}
    elif .source_id | contains(":") then (.source_id | index(":")) as $at | {scheme: .source_id[:$at], id: .source_id[$at + 1:]}
    else {id: .source_id} end;
reduce ("name", "content") as $name (.; if .[$name] != null then .data[$name] = .[$name] else . end)
| if .path != null and .path != (.data.path // "" | gsub("\\\\"; "/")) then
    .data.path = (.path | if test("^[A-Za-z]:/") then gsub("/"; "\\") else . end)
  else . end
| if .extension != null and .extension != (.data.extension // "" | ltrimstr(".")) then
    .data.extension = (.extension | if . == "" then . else "." + . end)
  else . end
| .created_at = (.created // .created_at)
| .updated_at = (.updated // .updated_at)
| if .source.kind != null and .source != source then
    .source_type = .source.kind
    | .source_id = (.source | if .id == null then null elif .scheme == null then .id else .scheme + ":" + .id end)
  else . end
| del(.extension, .name, .path, .content, .octets, .created, .updated, .source)
