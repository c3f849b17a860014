# exact but /data/size /type_address /deleted_at /source_type /source_id
# The record is made anew of its parts; the imported size is gone, the length of the content takes its place.
# A null that said nothing may be there now or be away.
.type //= "file"
| .type_address //= null
| .deleted_at //= null
| .created_at = .created
| .updated_at = .updated
| .data = (({name, type: "file", path}
    + (.path | if test("^[A-Za-z]:/") then {path: gsub("/"; "\\")} else {} end)
    + if .content != null then {content} else {} end
    + if .extension != null then {extension: (.extension | if . == "" then . else "." + . end), size: (.octets // 0)} else {} end)
    as $data | (.data // {}) + $data)
| if .source.kind != null then
    .source_type = .source.kind
    | .source_id = (.source | if .id == null then null elif .scheme == null then .id else .scheme + ":" + .id end)
  else . end
